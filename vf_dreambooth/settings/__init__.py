"""The settings of a training, a file per group of flags. Everything about one is in its own `option(...)`."""
