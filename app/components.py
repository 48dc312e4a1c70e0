"""Components that several tabs use: menus of subjects, upload fields, event options, progress."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.base import Component
from gradio.utils import get_upload_folder

from .cards import NO_SUBJECT as NO_SUBJECT
from .subjects import Library

DEVICE = "device"
# Options of an event that uses the device: these events run one at a time.
ON_DEVICE = {"concurrency_id": DEVICE, "concurrency_limit": 1}
# Options of an event that is quick and no part of the API. Only the messages of queued events reach the person.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
# Options of an event that cannot fail and happens all the time.
OFTEN: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}


def subject_choices(library: Library) -> list[tuple[str, str]]:
    """A menu's choices: (label, name) of every subject. What says a subject apart stands in its label."""
    subjects = library.all()
    labels = [subject.label for subject in subjects]
    return [(f"{s.label} ({s.name})" if labels.count(s.label) > 1 else s.label, s.name) for s in subjects]


def uploads_only(component: Component) -> Component:
    """Makes a file component take uploaded files alone: no URL, and no path of the server."""
    take_file = component.async_move_resource_to_block_cache

    async def refuse_others(source: str | Path | None) -> str | None:
        text = str(source)
        if text.lower().startswith(("http:", "https:")):
            raise gr.Error("A URL instead of a file: send the file itself.", print_exception=False)
        inside = [get_upload_folder(), component.GRADIO_CACHE]
        if source is not None and not any(Path(text).resolve().is_relative_to(Path(f).resolve()) for f in inside):
            raise gr.Error("A path instead of a file: upload the file itself.", print_exception=False)
        return await take_file(source)

    component.async_move_resource_to_block_cache = refuse_others
    return component


def step_progress(progress: gr.Progress) -> Callable[[int, int, str], None]:
    """A `generation.Progress` that moves gradio's progress bar."""
    return lambda done, total, what: progress((done, total), desc=f"generating {what}", unit="steps")
