"""The one exception of the library."""


class VectorFitError(ValueError):
    """A request that cannot be met; the message says what, what it got, what it expected and the remedy."""
