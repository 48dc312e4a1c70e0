"""What belongs to one browser session: its wish to stop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Sessions:
    """Per session whether it wants what is drawn for it to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawing: dict[str, set[threading.Event]] = {}

    @contextmanager
    def drawing(self, session: str | None) -> Iterator[threading.Event]:
        """Within the context the session draws; the event is set when it wants that to end."""
        stop, key = threading.Event(), session or ""
        with self._lock:
            self._drawing.setdefault(key, set()).add(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._drawing[key].discard(stop)
                if not self._drawing[key]:
                    del self._drawing[key]

    def stop(self, session: str | None) -> None:
        """Ends what the session draws, after the running step."""
        with self._lock:
            for event in self._drawing.get(session or "", ()):
                event.set()
