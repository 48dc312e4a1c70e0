"""The settings of a training, a file per group of flags. Everything about one stands in its own `option(...)`."""
