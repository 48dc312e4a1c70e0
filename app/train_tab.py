"""The Train tab: drop photos, see what is wrong with them, train in another process, watch it."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.cli import parse
from vf_dreambooth.photos import SUFFIXES
from vf_dreambooth.settings.prior import PRIORS
from vf_training.problems import Problems
from vf_training.runs import RunFolder

from .components import OFTEN, PRIVATE, uploads_only
from .generation import Generator
from .handlers import number, shows_errors, whole_number
from .jobs import FAILED, FINISHED, MAX_PHOTOS, MIN_PHOTOS, QUEUED, RUNNING, STOPPED, Jobs
from .photo_check import UNREADABLE, check_photos
from .training_cards import NO_TRAINING, SAID, duration, grid_url, photo_cards, progress, timeline

REFRESH_SECONDS = 1.0  # how often the page asks for the state of the trainings
MOST_STEPS, LEAST_RATE, MOST_RATE = 20, 1000, 25  # times the base's own steps and rate
PRESETS = {"Quick": 1 / 3, "Balanced": 1.0, "Thorough": 2.0}  # times the base's own steps
BALANCED = "Balanced"
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
            with gr.Column(scale=2, min_width=300):
                self._photos()
                self._settings()
            with gr.Column(scale=3, min_width=300):
                self._progress()
        self._wire()

    def _photos(self) -> None:
        label = f"{MIN_PHOTOS} to {MAX_PHOTOS} photos of one thing"
        self.photos = uploads_only(gr.File(label=label, file_count="multiple", file_types=sorted(SUFFIXES), height=130))
        self.checked = gr.HTML("", elem_id="photos")
        with gr.Row():
            self.noun = gr.Textbox("", label="What is it?", info="one noun", placeholder="dog", min_width=130)
            self.name = gr.Textbox("", label="Its name", info="by default the noun", placeholder="rex", min_width=130)

    def _settings(self) -> None:
        preset = self.base.preset
        self.preset = gr.Radio(list(PRESETS), value=BALANCED, label="How long", info="", elem_id="preset")
        with gr.Accordion("Settings", open=False):
            self.steps = gr.Number(preset.max_train_steps, precision=0, minimum=1, label="Steps")
            self.rate = gr.Number(preset.learning_rate, label="Learning rate")
            priors = [(PRIOR_NAMES.get(prior, prior), prior) for prior in PRIORS]
            self.prior = gr.Dropdown(priors, value=PRIORS[0], label="What keeps the class as it was")
            self.text_encoder = gr.Checkbox(True, label="Train the text encoder too")
            self.token = gr.Textbox("sks", label="Rare word that calls the subject")
            self.seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        self.start = gr.Button("Start training", variant="primary", elem_id="train", size="lg")
        self.started = gr.Textbox(label="Message", visible=False)

    def _progress(self) -> None:
        self.job = gr.Dropdown(
            label="Training", choices=[], value=None, visible=False, elem_id="job", allow_custom_value=True
        )
        self.state = gr.HTML(NO_TRAINING, elem_id="progress")
        with gr.Row():
            self.use = gr.Button("Generate with it", variant="primary", visible=False, elem_id="use")
            self.stop = gr.Button("Stop and save", visible=False, elem_id="stop")
            self.resume = gr.Button("Continue", visible=False, elem_id="resume")
            self.remove = gr.Button("Remove", visible=False, elem_id="remove")
        self.samples = gr.HTML("", elem_id="samples")
        self.timer = gr.Timer(REFRESH_SECONDS)

    def _wire(self) -> None:
        self.photos.change(
            shows_errors(self.show_photos),
            [self.photos, self.noun],
            [self.checked, self.noun, self.preset],
            **{**PRIVATE, "show_progress": "minimal"},
        )
        self.preset.input(self.steps_of, self.preset, self.steps, **PRIVATE)
        inputs = [
            *(self.photos, self.noun, self.name, self.steps, self.rate, self.prior, self.text_encoder, self.token),
            self.seed,
        ]
        outputs = [self.started, self.job]
        self.start.click(shows_errors(self.train), inputs, outputs, api_name="train", concurrency_limit=None)
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

    def show_photos(self, files: list[str] | None, noun: str) -> tuple[Any, ...]:
        """The uploaded photos with their check, a guess of their class noun, and how long a training takes."""
        if not files:
            return "", gr.skip(), gr.skip()
        checked = check_photos([Path(file) for file in files[: 2 * MAX_PHOTOS]], self.base.preset.resolution)
        if not MIN_PHOTOS <= len(files) <= MAX_PHOTOS:
            gr.Warning(f"{len(files)} photos; expected {MIN_PHOTOS} to {MAX_PHOTOS}")
        return photo_cards(checked), noun or checked.noun, self.presets()

    def steps_of(self, preset: str) -> int:
        """The steps of a preset."""
        return max(1, round(PRESETS.get(preset, 1.0) * self.base.preset.max_train_steps))

    def presets(self) -> Any:
        """The presets with the time each takes here, once a training on this base has been measured."""
        pace = self.jobs.seconds_per_step(self.base.name)
        told = (
            "; ".join(f"{name.lower()} about {duration(pace * self.steps_of(name))}" for name in PRESETS)
            if pace
            else ""
        )
        steps = ", ".join(f"{self.steps_of(name)}" for name in PRESETS)
        return gr.update(
            info=f"{told} on this machine" if told else f"{steps} steps; timed here after the first training"
        )

    def train(
        self,
        photos: list[str] | None,
        class_noun: str,
        name: str = "",
        steps: float | None = None,
        learning_rate: float | None = None,
        prior: str = PRIORS[0],
        train_text_encoder: bool = True,
        token: str = "sks",
        seed: float = 0,
    ) -> tuple[str, str]:
        """Queues a training on the photos. Returns a message and the training's name."""
        paths = [Path(file) for file in photos or []]
        check_number(len(paths))
        checked = check_photos(paths[: MAX_PHOTOS + 1], self.base.preset.resolution)
        if checked.unreadable:
            reasons = "\n".join(f"{name}: {note}" for name, pixels, note in checked.rows if pixels == UNREADABLE)
            raise VectorFitError(f"{checked.unreadable} of {len(paths)} photos cannot be used; remove them:\n{reasons}")
        noun = (class_noun or "").strip() or checked.noun
        if not noun:
            raise VectorFitError(
                "class noun: missing, and the names of the photos do not give one; expected one noun, such as dog"
            )
        flags = {"base_model": self.base.location if self.base.name != "starter" else "starter", "class_noun": noun}
        flags |= {"token": (token or "sks").strip(), "prior": prior, "seed": str(whole_number(seed or 0, "seed"))}
        flags |= {"max_train_steps": str(whole_number(steps, "steps"))} if steps is not None else {}
        flags |= {"learning_rate": str(number(learning_rate, "learning rate"))} if learning_rate is not None else {}
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        arguments += [] if train_text_encoder else ["--no-train_text_encoder"]
        check_range("steps", steps, 1, MOST_STEPS * self.base.preset.max_train_steps)
        usual = self.base.preset.learning_rate
        check_range("learning rate", learning_rate, usual / LEAST_RATE, usual * MOST_RATE)
        check_settings(arguments)
        job = self.jobs.add(paths, name or noun, arguments)
        waiting = sum(other.waiting for other in self.jobs.all())
        return f"{job.name}: {f'waits, {waiting} in the queue' if job.waiting else 'started'}", job.name

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


def check_number(photos: int) -> None:
    """Raises VectorFitError for too few or too many photos."""
    if not MIN_PHOTOS <= photos <= MAX_PHOTOS:
        raise VectorFitError(f"{photos} photos; expected {MIN_PHOTOS} to {MAX_PHOTOS} of one thing")


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """Raises VectorFitError for a number that can only fail, with the range around the base's own value."""
    if value is not None and not low <= value <= high:
        raise VectorFitError(f"{name}: got {value:g}, expected {low:g} to {high:g}")


def check_settings(arguments: list[str]) -> None:
    """Raises VectorFitError for settings that the training script would refuse."""
    problems = Problems()
    parse(["--instance_dir=.", *arguments], problems)
    problems.raise_all()
