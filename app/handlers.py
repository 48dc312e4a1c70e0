"""Event handlers: the numbers they read from a form, and the errors they show."""

import functools
import html
import math
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch

from vectorfit import VectorFitError

from .generation import Cancelled

PATH = re.compile(r"(?<![\w.:/])(?:/[^\s/:'\"<>|]+)+/([^\s/:'\"<>|]+)")


def without_paths(message: str) -> str:
    """The message with the server's paths shortened to their last name."""
    return PATH.sub(r"\1", message)


def shows_errors(handler: Callable) -> Callable:
    """Wraps a handler: any failure becomes one message on the page, and the app keeps running.

    The message is escaped: it may quote a person's input or a file, which must not become part of the page. gradio
    shows the messages of queued events only, so every event with such a handler is queued.
    """

    @functools.wraps(handler)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except VectorFitError as error:
            message = str(error)
        except Cancelled:
            message = "Cancelled."
        except (torch.OutOfMemoryError, MemoryError):
            message = "Out of memory. Ask for fewer or smaller images, or end other programs that use the device."
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            message = f"That failed ({type(error).__name__}: {error}). The server's output has the details."
        text = html.escape(without_paths(message), quote=False)
        raise gr.Error(text.replace("\n", "<br>"), print_exception=False, duration=15)

    return wrapped


def whole_number(value: object, name: str) -> int:
    """A field's value as an int. Raises VectorFitError if the field is empty or holds no number."""
    return int(number(value, name))


def number(value: object, name: str) -> float:
    """A field's value as a float. Raises VectorFitError if the field is empty or holds no number."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise VectorFitError(f"{name}: got {value!r}, expected a number")
