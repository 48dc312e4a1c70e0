"""Collects the problems of a user's input, so that all are reported at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from vectorfit import VectorFitError


class Problems:
    """Messages, one line each, in the order in which they were found."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Within the context an error is noted instead of raised, and the rest of the context is skipped."""
        try:
            yield
        except VectorFitError as error:
            self.messages += str(error).splitlines()

    def raise_all(self) -> None:
        """Raises VectorFitError with all messages, if there are any."""
        if self.messages:
            raise VectorFitError("\n".join(self.messages))
