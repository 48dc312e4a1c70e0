"""The Train tab: drop photos, see what is wrong with them, train in another process, watch it."""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.cli import parse
from vf_dreambooth.settings.prior import PRIORS
from vf_training.problems import Problems
from vf_training.runs import RunFolder

from .components import OFTEN, PRIVATE
from .generation import Generator
from .handlers import number, shows_errors, whole_number
from .jobs import FAILED, FINISHED, QUEUED, RUNNING, STOPPED, Jobs
from .pace import about
from .photo_table import PhotoTable
from .training_cards import NO_TRAINING, SAID, grid_url, progress, step_title, timeline

REFRESH_SECONDS = 1.0  # how often the page asks for the state of the trainings
MOST_STEPS, LEAST_RATE, MOST_RATE = 20, 1000, 25  # times the base's own steps and rate
PRESETS = {"Quick": 1 / 3, "Balanced": 1.0, "Thorough": 2.0}  # times the base's own steps
BALANCED = "Balanced"
TOKEN = "sks"
PRIOR_NAMES = {
    "class_images": "pictures of the class, drawn first",
    "base_prediction": "the base's own prediction, no pictures needed",
    "drift": "a penalty on change",
    "none": "nothing",
}


class TrainTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator, jobs: Jobs) -> None:
        self.generator, self.jobs = generator, jobs
        self.base = generator.default_base
        self.sent = gr.State({"menu": [], "samples": ""})  # what the page already shows
        with gr.Row(elem_id="training-table"):
            with gr.Column(scale=2, min_width=300, elem_id="taught"):
                self._subject()
                self._settings()
            with gr.Column(scale=3, min_width=300):
                self._progress()
        self._wire()

    def _subject(self) -> None:
        gr.HTML(step_title(1, "Photos", "one thing, in different places and lights"))
        self.table = PhotoTable(self.base.preset.resolution)
        gr.HTML(step_title(2, "What is it?"))
        with gr.Row():
            self.noun = gr.Textbox("", label="Class noun", placeholder="dog", min_width=130, elem_id="noun")
            self.name = gr.Textbox("", label="Name, if you like", placeholder="rex", min_width=130)
        self.called = gr.HTML("", elem_id="called")

    def _settings(self) -> None:
        preset = self.base.preset
        gr.HTML(step_title(3, "How long?"))
        self.preset = gr.Radio(list(PRESETS), value=BALANCED, show_label=False, label="How long?", elem_id="preset")
        with gr.Accordion("Settings", open=False):
            with gr.Row():
                self.steps = gr.Number(preset.max_train_steps, precision=0, minimum=1, label="Steps", min_width=120)
                self.rate = gr.Number(
                    None, label="Learning rate", placeholder=f"the preset's: {preset.learning_rate:g}", min_width=120
                )
            priors = [(PRIOR_NAMES.get(prior, prior), prior) for prior in PRIORS]
            self.prior = gr.Dropdown(priors, value=PRIORS[0], label="Prior: what keeps the class as it was")
            self.text_encoder = gr.Checkbox(True, label="Train the text encoder too")
            with gr.Row():
                self.token = gr.Textbox(TOKEN, label="Rare word that calls it", min_width=120)
                self.seed = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=120)
        self.start = gr.Button("Start training", variant="primary", elem_id="train", size="lg")
        self.started = gr.Textbox(label="Message", visible=False)

    def _progress(self) -> None:
        self.job = gr.Dropdown(
            label="Training", choices=[], value=None, visible=False, elem_id="job", allow_custom_value=True
        )
        self.state = gr.HTML(NO_TRAINING, elem_id="progress")
        with gr.Row(elem_id="training-actions"):
            self.use = gr.Button("Generate with it", variant="primary", visible=False, elem_id="use")
            self.stop = gr.Button("Stop and save", visible=False, elem_id="stop")
            self.resume = gr.Button("Continue", variant="primary", visible=False, elem_id="resume")
            self.remove = gr.Button("Remove", visible=False, elem_id="remove", scale=0, min_width=110)
        self.samples = gr.HTML("", elem_id="samples")
        self.timer = gr.Timer(REFRESH_SECONDS)

    def _wire(self) -> None:
        self.table.wire(self.noun)
        for field in (self.noun, self.token):
            field.change(self.call, [self.noun, self.token], self.called, trigger_mode="always_last", **OFTEN)
        self.preset.input(self.steps_of, self.preset, self.steps, **PRIVATE)
        inputs = [
            *(self.table.photos, self.noun, self.name, self.steps, self.rate, self.prior, self.text_encoder),
            *(self.token, self.seed, self.table.edits),
        ]
        self.start.click(
            shows_errors(self.train),
            inputs,
            [self.started, self.job],
            api_name="train",
            concurrency_limit=None,
            js=PhotoTable.COLLECT,
        )
        self.timer.tick(self.refreshed, [self.job, self.sent], self.refreshed_components, **OFTEN)
        quick: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
        self.stop.click(shows_errors(self.stop_training), self.job, None, api_name="stop", **quick)
        self.resume.click(shows_errors(self.resume_training), self.job, None, api_name="resume", **quick)
        asked = "(name) => { if (!confirm(`Remove ${name} with its photos?`)) throw 'kept'; return name; }"
        self.remove.click(shows_errors(self.remove_training), self.job, None, js=asked, api_name="remove", **quick)

    @property
    def refreshed_components(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.job, self.state, self.samples, self.sent, self.use, self.stop, self.resume, self.remove]

    def call(self, noun: str, token: str) -> str:
        """What will call the subject in a prompt, and which subjects the same words call already."""
        token = (token or "").strip() or TOKEN
        if not (noun or "").strip():
            return ""
        phrase = f"{token} {noun.strip()}"
        text = f"In a prompt, <b>{html.escape(phrase)}</b> will call it."
        same = [subject.label for subject in self.generator.library.all() if subject.trigger == phrase]
        if same:
            text += (
                f" {html.escape(' and '.join(same))} answers to that too: to mix them in one picture, choose another "
                "rare word in the settings."
            )
        return f'<p class="note">{text}</p>'

    def steps_of(self, preset: str) -> int:
        """The steps of a preset."""
        return max(1, round(PRESETS.get(preset, 1.0) * self.base.preset.max_train_steps))

    def presets(self) -> Any:
        """The presets with the time each takes here, once a training on this base has been measured."""
        pace = self.jobs.seconds_per_step(self.base.name)
        choices = [
            (f"{name} · {about(pace * steps) if pace else f'{steps} steps'}", name)
            for name, steps in ((name, self.steps_of(name)) for name in PRESETS)
        ]
        return gr.update(choices=choices)

    def train(
        self,
        photos: list[str] | None,
        class_noun: str,
        name: str = "",
        steps: float | None = None,
        learning_rate: float | None = None,
        prior: str = PRIORS[0],
        train_text_encoder: bool = True,
        token: str = TOKEN,
        seed: float = 0,
        edits: list[dict] | None = None,
    ) -> tuple[str, str]:
        """Queues a training on the photos. Returns a message and the training's name.

        Without a learning rate the preset's holds. `edits` holds {"caption": its own prompt, "crop": [left, top, side]}
        or null for every photo, in their order.
        """
        checked = self.table.checked(photos, edits)
        noun = (class_noun or "").strip() or checked.noun
        if not noun:
            raise VectorFitError(
                "class noun: missing, and the names of the photos do not give one; expected one noun, such as dog"
            )
        flags = {"base_model": self.base.location if self.base.name != "starter" else "starter", "class_noun": noun}
        flags |= {"token": (token or TOKEN).strip(), "prior": prior, "seed": str(whole_number(seed or 0, "seed"))}
        flags |= {"max_train_steps": str(whole_number(steps, "steps"))} if steps is not None else {}
        learning_rate = learning_rate or None  # an empty field may come as 0
        flags |= {"learning_rate": str(number(learning_rate, "learning rate"))} if learning_rate is not None else {}
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        arguments += [] if train_text_encoder else ["--no-train_text_encoder"]
        check_range("steps", steps, 1, MOST_STEPS * self.base.preset.max_train_steps)
        usual = self.base.preset.learning_rate
        check_range("learning rate", learning_rate, usual / LEAST_RATE, usual * MOST_RATE)
        check_settings(arguments)
        check_captions([edit.caption for edit in checked.edits], flags["token"])
        job = self.jobs.add(checked.paths, name or noun, arguments, checked.edits)
        waiting = sum(other.waiting for other in self.jobs.all())
        room = "" if job.waiting else " The page's own model makes room for it; the next drawing loads it again."
        message = f"{job.name}: {f'waits, {waiting} in the queue' if job.waiting else 'started'}"
        gr.Info(f"{html.escape(message)}.{room}")
        return message, job.name

    def refreshed(self, name: str | None, sent: dict) -> tuple[Any, ...]:
        """The current state of the trainings. Unchanged parts are not sent again, and the chosen training stays."""
        statuses = [self.jobs.status(job) for job in reversed(self.jobs.all())]
        hidden = [gr.update(visible=False)] * 4
        if not statuses:
            empty = {"menu": [], "samples": ""}
            return gr.update(visible=False, value=None), NO_TRAINING, "", empty, *hidden
        names = [status.name for status in statuses]
        running = next((status.name for status in statuses if status.state == RUNNING), names[0])
        chosen = statuses[names.index(name if name in names else running)]
        labels = [[f"{status.name} {SAID[status.state]}", status.name] for status in statuses]
        menu = {"value": chosen.name} if name not in names else {}
        menu |= {"choices": [tuple(label) for label in labels], "visible": True} if labels != sent["menu"] else {}
        grids = RunFolder(self.jobs.root / chosen.name).sample_grids()
        samples = f"{chosen.name} {[path.name for path in grids]}"
        buttons = {FINISHED: (1, 0, 0, 1), RUNNING: (0, 1, 0, 0), QUEUED: (0, 1, 0, 0)}
        buttons |= {STOPPED: (0, 0, 1, 1), FAILED: (0, 0, 1, 1)}
        return (
            gr.update(**menu) if menu else gr.skip(),
            progress(chosen, self.jobs.losses(chosen.name)),
            gr.skip() if samples == sent["samples"] else self._samples(grids),
            {"menu": labels, "samples": samples},
            *(gr.update(visible=bool(shown)) for shown in buttons.get(chosen.state, (0, 0, 0, 0))),
        )

    @staticmethod
    def _samples(grids: Sequence[Path]) -> str:
        """The sample grids inside the page: gradio serves no file of the run folder."""
        found = []
        for path in grids:
            with Image.open(path, formats=["PNG"]) as image:
                found.append((int(path.stem.rpartition("_")[2]), grid_url(image)))
        return timeline(found)

    def stop_training(self, name: str | None) -> None:
        """Stops the chosen training after its current step; it writes a checkpoint."""
        self.jobs.stop(name or "")

    def resume_training(self, name: str | None) -> None:
        """Continues the chosen training."""
        self.jobs.resume(name or "")

    def remove_training(self, name: str | None) -> None:
        """Removes the chosen training, its subject and its photos."""
        self.jobs.remove(name or "")
        gr.Info(f"{html.escape(name or '')} is removed.")


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raises VectorFitError for a number that can only fail, with the range around the base's own value."""
    if value is not None and not low <= value <= high:
        raise VectorFitError(f"{name}: got {value:g}, expected {low:g} to {high:g}")


def check_captions(captions: Sequence[str], token: str) -> None:
    """Tells of captions that do not call the subject. Raises VectorFitError for unknown words in braces."""
    for caption in captions:
        unknown = set(re.findall(r"{(\w*)}", caption)) - {"token", "class"}
        if unknown:
            raise VectorFitError(
                f"{caption!r}: unknown placeholder {{{unknown.pop()}}}; expected {{token}} or {{class}}"
            )
    without = sum(bool(caption) and not {token, "{token}"} & set(caption.split()) for caption in captions)
    if without:
        gr.Warning(f"{without} captions do not say {html.escape(token)}, the word that will call the subject.")


def check_settings(arguments: list[str]) -> None:
    """Raises VectorFitError for settings that the training script would refuse."""
    problems = Problems()
    parse(["--instance_dir=.", *arguments], problems)
    problems.raise_all()
