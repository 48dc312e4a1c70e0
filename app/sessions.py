"""What belongs to one browser session: its wish to stop. And how errors reach a person."""

import functools
import html
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import torch

from vectorfit import VectorFitError

from .drawing import Stopped


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

    def stop(self, session: str | None) -> bool:
        """Ends what the session draws, after the running step; returns whether it drew anything."""
        with self._lock:
            events = list(self._drawing.get(session or "", ()))
        for event in events:
            event.set()
        return bool(events)


def telling(handler: Callable) -> Callable:
    """A handler whose failures a person reads as one message; the app lives on.

    The message is text: it may quote what a person or a file has said, and must not become a part of the page.
    """

    @functools.wraps(handler)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except VectorFitError as error:
            message = str(error)
        except Stopped:
            message = "Cancelled."
        except (torch.OutOfMemoryError, MemoryError):
            message = "Out of memory: ask for fewer or smaller pictures, or end what else runs on the device."
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            message = f"That failed ({type(error).__name__}: {error}). The server's output tells more."
        raise gr.Error(html.escape(message).replace("\n", "<br>"), print_exception=False)

    return wrapped
