"""Event handlers: the numbers they read from a form, and the errors they show."""

import functools
import html
import math
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch

from vectorfit import VectorFitError

from .generation import Cancelled


def shows_errors(handler: Callable) -> Callable:
    """Wraps a handler: any failure becomes one message on the page, and the app keeps running.

    The message is escaped. It may quote a person's input or a file, which must not become part of the page.
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
        raise gr.Error(html.escape(message).replace("\n", "<br>"), print_exception=False)

    return wrapped


def whole_number(value: object, name: str) -> int:
    """A field's value as an int. Raises VectorFitError if the field is empty or holds no number."""
    return int(number(value, name))


def number(value: object, name: str) -> float:
    """A field's value as a float. Raises VectorFitError if the field is empty or holds no number."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise VectorFitError(f"{name}: got {value!r}, expected a number")
