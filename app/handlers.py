"""Event handlers: the numbers they read from a form, and the errors they show."""

import functools
import html
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import torch

from vectorfit import VectorFitError

from .generation import Cancelled

PATH = re.compile(r"(?<![\w.:/])(?:/[^\s/:'\"<>|]+)+/([^\s/:'\"<>|]+)")


def without_paths(message: str) -> str:
    """The message with the server's paths shortened to their last name."""
    return PATH.sub(r"\1", message)


def shown(error: Exception) -> gr.Error:
    """The message that the page shows of a failure, escaped.

    It may quote a person's input or a file, which must not become part of the page.
    """
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, VectorFitError):
        message = str(error)
    elif isinstance(error, Cancelled):
        message = "Cancelled."
    elif isinstance(error, torch.OutOfMemoryError | MemoryError):
        message = "Out of memory. Ask for fewer or smaller images, or end other programs that use the device."
    else:
        traceback.print_exception(error, file=sys.stderr)
        message = f"That failed ({type(error).__name__}: {error}). The server's output has the details."
    text = html.escape(without_paths(message), quote=False).replace("\n", "<br>")
    return gr.Error(text, print_exception=False, duration=15)


def shows_errors(handler: Callable) -> Callable:
    """Wraps a handler: any failure becomes one message on the page, and the app keeps running.

    gradio shows the messages of queued events only, so every event with such a handler is queued.
    """

    @functools.wraps(handler)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except Exception as error:
            raise shown(error) from None

    return wrapped


def streams_errors(handler: Callable) -> Callable:
    """As `shows_errors`, for a handler that yields."""

    @functools.wraps(handler)
    def wrapped(*arguments: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from handler(*arguments, **named)
        except Exception as error:
            raise shown(error) from None

    return wrapped


def whole_number(value: object, name: str) -> int:
    """A field's value as an int. Raises VectorFitError if the field is empty or holds no number."""
    return int(number(value, name))


def number(value: object, name: str) -> float:
    """A field's value as a float. Raises VectorFitError if the field is empty or holds no number."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise VectorFitError(f"{name}: got {value!r}, expected a number")
