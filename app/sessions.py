"""Cancelling: which generations belong to which browser session."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Sessions:
    """The running generations of every session, each with the event that cancels it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, set[threading.Event]] = {}

    @contextmanager
    def generating(self, session: str | None) -> Iterator[threading.Event]:
        """Registers a generation of the session within the context. The event is set when the session cancels it."""
        event, key = threading.Event(), session or ""
        with self._lock:
            self._running.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            with self._lock:
                self._running[key].discard(event)
                if not self._running[key]:
                    del self._running[key]

    def cancel(self, session: str | None) -> None:
        """Cancels the session's generations; each ends after its current step."""
        with self._lock:
            for event in self._running.get(session or "", ()):
                event.set()
