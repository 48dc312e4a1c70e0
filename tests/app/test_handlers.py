"""Handlers show failures as text, and read numbers from fields."""

import gradio as gr
import pytest

from app.generation import Cancelled
from app.handlers import number, shows_errors, whole_number
from vectorfit import VectorFitError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (VectorFitError("<b>no</b>\nsecond"), "&lt;b&gt;no&lt;/b&gt;<br>second"),
        (Cancelled(), "Cancelled."),
        (MemoryError(), "Out of memory"),
        (ValueError("odd"), r"That failed \(ValueError: odd\)"),
        (VectorFitError("/srv/runs/rex/vectors.safetensors: can't be read"), "^.?vectors.safetensors: can't be read"),
    ],
)
def test_failures_are_shown_as_text(error, message):
    def handler():
        raise error

    with pytest.raises(gr.Error, match=message):
        shows_errors(handler)()


def test_numbers_are_read_and_an_empty_field_is_named():
    assert whole_number(3.0, "steps") == 3
    assert number(2, "guidance") == 2.0
    for value in (None, "7", float("nan"), float("inf")):
        with pytest.raises(VectorFitError, match="steps: got"):
            whole_number(value, "steps")
