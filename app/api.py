"""What a program may ask for beside the tabs' own endpoints: lists, details, checks, a subject file to add."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from vf_dreambooth.images import read_parameters
from vf_training.runs import RunFolder

from . import prompt_tokens, subject_care
from .components import uploads_only
from .generation import Generator
from .handlers import shows_errors
from .jobs import Jobs
from .photo_check import check_photos
from .request_form import fields_of
from .subject_details import facts, scores, settings

PRIVATE_FIELDS = ("samples",)  # of a training's state: a path of the server


class Api:
    """The endpoints, and the hidden components that the files come and go through."""

    def __init__(self, generator: Generator, jobs: Jobs) -> None:
        self.generator, self.library, self.jobs = generator, generator.library, jobs
        for answer in (self.list_subjects, self.list_trainings, self.subject, self.count_tokens):
            gr.api(shows_errors(answer), api_name=answer.__name__, concurrency_limit=None)
        with gr.Column(visible=False):
            name = gr.Textbox(label="Name")
            image = uploads_only(gr.File(label="Picture"))
            photos = uploads_only(gr.File(label="Photos", file_count="multiple"))
            file = uploads_only(gr.File(label="Subject file"))
            answer, grids = gr.JSON(label="Answer"), gr.Gallery(label="Samples", format="png")
            button = gr.Button("ask")
        for handler, given, result in (
            (self.settings_of, image, answer),
            (self.check_photos, photos, answer),
            (self.add_subject, file, answer),
            (self.samples, name, grids),
        ):
            button.click(shows_errors(handler), given, result, api_name=handler.__name__, concurrency_limit=None)

    def list_subjects(self) -> list[dict[str, str]]:
        """All subjects: name, trigger phrase, base model and method of each."""
        return [{"name": s.name, "trigger": s.trigger, "base": s.base, "method": s.method} for s in self.library.all()]

    def list_trainings(self) -> list[dict[str, Any]]:
        """All trainings, the oldest first: name, state, step, steps, loss, seconds left, message, phase, queue."""
        states = [asdict(self.jobs.status(job)) for job in self.jobs.all()]
        return [{key: value for key, value in state.items() if key not in PRIVATE_FIELDS} for state in states]

    def subject(self, name: str) -> dict[str, Any]:
        """What is recorded of a subject: facts, settings, scores, notes."""
        subject = self.library.find(name)
        return {
            "facts": dict(facts(subject)),
            "settings": dict(settings(subject)),
            "scores": scores(subject),
            "notes": subject_care.note_of(self.library, name),
        }

    def count_tokens(self, prompt: str, subject: str = "") -> dict[str, Any]:
        """The tokens of a prompt, how many the base reads, and what is cut off."""
        base = self.library.base_of(self.library.find(subject)) if subject else self.generator.default_base
        counted = prompt_tokens.count(prompt, base)
        return dict(zip(("tokens", "read", "cut"), counted, strict=True)) if counted else {}

    def settings_of(self, image: str) -> dict[str, Any]:
        """The settings that a picture of this page was drawn with."""
        parameters = read_parameters(Path(image))
        fields_of(parameters)  # refuses a picture of something else
        return parameters

    def check_photos(self, photos: list[str] | None) -> dict[str, Any]:
        """What is wrong with each photo, and the noun that their names give."""
        checked = check_photos([Path(file) for file in photos or []], self.generator.default_base.preset.resolution)
        rows = [dict(zip(("name", "pixels", "note"), row, strict=True)) for row in checked.rows]
        return {"photos": rows, "noun": checked.noun}

    def add_subject(self, file: str) -> dict[str, str]:
        """Adds a subject file; gives the subject's name in the list and its trigger phrase."""
        added = self.library.add(Path(file))
        return {"name": added.name, "trigger": added.trigger}

    def samples(self, name: str) -> list[tuple[str, str]]:
        """The sample grids of a training, by step."""
        grids = RunFolder(self.jobs.root / self.jobs.find(name).name).sample_grids()
        folder = self.generator.new_folder()  # gradio serves no file of the run folder
        steps = [path.stem.rpartition("_")[2].lstrip("0") or "0" for path in grids]
        return [
            (str(shutil.copy(path, folder / f"{step}.png")), f"step {step}")
            for path, step in zip(grids, steps, strict=True)
        ]
