"""The Train tab: upload and check photos, start a training in its own process, watch its progress."""

import html
import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from vectorfit import VectorFitError
from vf_dreambooth.cli import parse
from vf_dreambooth.photos import SUFFIXES
from vf_dreambooth.settings.prior import PRIORS
from vf_training.problems import Problems

from .components import PRIVATE, uploads_only
from .generation import Generator
from .handlers import number, shows_errors, whole_number
from .jobs import FAILED, MAX_PHOTOS, MIN_PHOTOS, QUEUED, RUNNING, STOPPED, Jobs, Status
from .photo_check import UNREADABLE, check_photos

REFRESH_SECONDS = 1.0  # how often the page asks for the state of the trainings
HEADERS = ["training", "state", "step", "loss", "time left"]


def duration(seconds: float | None) -> str:
    """Seconds as text, such as "2 min 5 s"; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def table_row(status: Status) -> list[str]:
    """A training's row of the table."""
    steps = f"{status.step} of {status.steps}" if status.steps else ""
    return [status.name, status.state, steps, "" if status.loss is None else f"{status.loss:.3f}", duration(status.eta)]


def progress_bar(status: Status) -> str:
    """A training's progress as HTML: a bar and a line below it. Names and messages are escaped."""
    details = f", step {status.step} of {status.steps}" if status.steps else ""
    details += f", loss {status.loss:.3f}" if status.loss is not None else ""
    details += f", {duration(status.eta)} left" if status.eta is not None else ""
    message = f"<pre>{html.escape(status.message)}</pre>" if status.message else ""
    label = 'aria-label="progress of the training"'
    element = f'<progress value="{status.step}" max="{status.steps or 1}" {label}></progress>'
    # Only the state has the role "status": a screen reader would otherwise read out every step.
    return (
        f'{element}<div><span role="status">{html.escape(status.name)}: {status.state}</span>{details}</div>{message}'
    )


class TrainTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator, jobs: Jobs) -> None:
        self.generator, self.jobs = generator, jobs
        self.base = generator.default_base
        self.sent = gr.State({"names": [], "rows": [], "sheet": ""})  # what the page already shows
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._photos()
                self._settings()
            with gr.Column(scale=3, min_width=320):
                self._progress()
        self._wire()

    def _photos(self) -> None:
        label = f"{MIN_PHOTOS} to {MAX_PHOTOS} photos of one subject"
        self.photos = uploads_only(gr.File(label=label, file_count="multiple", file_types=sorted(SUFFIXES), height=150))
        self.checked = gr.Dataframe(
            headers=["photo", "pixels", "note"],
            label="Check of the photos",
            interactive=False,
            wrap=True,
            visible=False,
        )
        self.upright = gr.Gallery(
            label="Photos as the training sees them",
            show_label=False,
            columns=5,
            fit_columns=False,
            object_fit="cover",
            visible=False,
            buttons=[],
            interactive=False,
            elem_id="upright",
        )
        self.noun = gr.Textbox("", label="What is it?", info="one noun: dog, backpack, teapot", placeholder="dog")
        self.name = gr.Textbox("", label="Name of the subject", info="by default the noun", placeholder="rex")

    def _settings(self) -> None:
        preset = self.base.preset
        with gr.Accordion("Advanced settings", open=False):
            self.steps = gr.Number(preset.max_train_steps, precision=0, minimum=1, label="Steps")
            self.rate = gr.Number(
                None, label="Learning rate", placeholder=f"the preset's: {preset.learning_rate:g}", minimum=0
            )
            self.prior = gr.Dropdown(list(PRIORS), value=PRIORS[0], label="Prior preservation: how the class is kept")
            self.text_encoder = gr.Checkbox(True, label="Train the text encoder too")
            self.token = gr.Textbox("sks", label="Rare word that names the subject")
            self.seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        self.start = gr.Button("Start training", variant="primary", elem_id="train")
        self.started = gr.Textbox(label="Last started", interactive=False)

    def _progress(self) -> None:
        self.job = gr.Dropdown(label="Training", choices=[], value=None, allow_custom_value=True)
        self.bar = gr.HTML("No training yet.", elem_id="progress")
        with gr.Row():
            self.stop = gr.Button("Stop after this step", variant="stop", interactive=False, elem_id="stop")
            self.resume = gr.Button("Resume", interactive=False, elem_id="resume")
        self.samples = gr.Image(
            label="Samples during the training",
            type="filepath",
            format="png",
            interactive=False,
            visible=False,
            elem_id="samples",
            show_label=False,
            buttons=["download", "fullscreen"],
        )
        self.table = gr.Dataframe(headers=HEADERS, label="All trainings", interactive=False)
        self.timer = gr.Timer(REFRESH_SECONDS)

    def _wire(self) -> None:
        self.photos.change(
            shows_errors(self.show_photos),
            [self.photos, self.noun],
            [self.checked, self.upright, self.noun],
            **{**PRIVATE, "show_progress": "minimal"},
        )
        inputs = [
            *(self.photos, self.noun, self.name, self.steps, self.rate, self.prior, self.text_encoder, self.token),
            self.seed,
        ]
        outputs = [self.started, self.job]
        self.start.click(shows_errors(self.train), inputs, outputs, api_name="train", queue=False)
        self.timer.tick(self.refreshed, [self.job, self.sent], self.refreshed_components, **PRIVATE)
        self.stop.click(shows_errors(self.stop_training), self.job, None, **PRIVATE)
        self.resume.click(shows_errors(self.resume_training), self.job, None, **PRIVATE)

    @property
    def refreshed_components(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.job, self.bar, self.table, self.samples, self.sent, self.stop, self.resume]

    def show_photos(self, files: list[str] | None, noun: str) -> tuple[Any, ...]:
        """The check of the uploaded photos, and a guess of their class noun."""
        if not files:
            return gr.update(visible=False), gr.update(visible=False), gr.skip()
        checked = check_photos([Path(file) for file in files[: 2 * MAX_PHOTOS]], self.base.preset.resolution)
        if not MIN_PHOTOS <= len(files) <= MAX_PHOTOS:
            gr.Warning(f"{len(files)} photos; expected {MIN_PHOTOS} to {MAX_PHOTOS}")
        images = gr.update(value=checked.images, visible=bool(checked.images))
        return gr.update(value=checked.rows, visible=True), images, noun or checked.noun

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
        check_settings(arguments)
        job = self.jobs.add(paths, name or noun, arguments)
        waiting = sum(other.waiting for other in self.jobs.all())
        message = f"{job.name}: {f'waits, {waiting} in the queue' if job.waiting else 'started'}"
        return message, job.name

    def refreshed(self, name: str | None, sent: dict) -> tuple[Any, ...]:
        """The current state of the trainings. Unchanged parts are not sent again, and the chosen training stays."""
        statuses = [self.jobs.status(job) for job in reversed(self.jobs.all())]
        if not statuses:
            return (gr.skip(),) * len(self.refreshed_components)
        names, rows = [status.name for status in statuses], [table_row(status) for status in statuses]
        running = next((status.name for status in statuses if status.state == RUNNING), names[0])
        chosen = statuses[names.index(name if name in names else running)]
        menu = {"value": chosen.name} if name not in names else {}
        menu |= {"choices": names} if names != sent["names"] else {}
        sheet = f"{chosen.samples} {chosen.samples.stat().st_mtime_ns}" if chosen.samples else ""
        return (
            gr.update(**menu) if menu else gr.skip(),
            progress_bar(chosen),
            gr.skip() if rows == sent["rows"] else rows,
            gr.skip() if sheet == sent["sheet"] else self._samples(chosen.samples),
            {"names": names, "rows": rows, "sheet": sheet},
            gr.update(interactive=chosen.state in (RUNNING, QUEUED)),
            gr.update(interactive=chosen.state in (STOPPED, FAILED)),
        )

    def _samples(self, samples: Path | None) -> Any:
        """A copy of the sample grid: gradio serves no file of the run folder."""
        copy = shutil.copyfile(samples, self.generator.new_folder() / "samples.png") if samples else None
        return gr.update(value=copy, visible=samples is not None)

    def stop_training(self, name: str | None) -> None:
        """Stops the chosen training after its current step; it writes a checkpoint."""
        self.jobs.stop(name or "")

    def resume_training(self, name: str | None) -> None:
        """Resumes the chosen training."""
        self.jobs.resume(name or "")


def check_settings(arguments: list[str]) -> None:
    """Raises VectorFitError for settings that the training script would refuse."""
    problems = Problems()
    parse(["--instance_dir=.", *arguments], problems)
    problems.raise_all()
