"""What forms give and are told: numbers, files of one's own, and errors as one message."""

import functools
import html
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio.components.base import Component

from vectorfit import VectorFitError

from .drawing import Stopped


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


def whole(value: object, what: str) -> int:
    """A number from a form. Raises VectorFitError where it is none: a person may have emptied the field."""
    return int(number(value, what))


def number(value: object, what: str) -> float:
    """As `whole`, for numbers with a fraction."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise VectorFitError(f"{what}: got {value!r}, expected a number")


def own_files(component: Component) -> Component:
    """A component that takes files: only those that are sent to it, none that it would have to fetch from somewhere."""
    take = component.async_move_resource_to_block_cache

    async def refusing(place: str | Path | None) -> str | None:
        if str(place).lower().startswith(("http:", "https:")):
            raise gr.Error("An address instead of a file: send the file itself.", print_exception=False)
        return await take(place)

    component.async_move_resource_to_block_cache = refusing
    return component
