"""The tab that trains: photos in, a look at them, a process of its own, and its progress."""

import html
import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from vectorfit import VectorFitError
from vf_dreambooth.cli import parse
from vf_dreambooth.config import PRIORS
from vf_training.problems import Problems

from .drawing import Studio
from .forms import number, own_files, telling, whole
from .generate_tab import PRIVATE
from .jobs import FAILED, FEWEST_PHOTOS, MOST_PHOTOS, QUEUED, RUNNING, STOPPED, Jobs, Status
from .photo_check import UNREADABLE, check

EVERY = 1.0  # seconds between two looks at the trainings
HEADERS = ["training", "state", "step", "loss", "time left"]


def amount(seconds: float | None) -> str:
    """A time for a reader."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def row(status: Status) -> list[str]:
    """A training in the table."""
    steps = f"{status.step} of {status.steps}" if status.steps else ""
    return [status.name, status.state, steps, "" if status.loss is None else f"{status.loss:.3f}", amount(status.eta)]


def bar(status: Status) -> str:
    """How far a training is, as a progress bar and a line beneath. What others have said is escaped."""
    told = f", step {status.step} of {status.steps}" if status.steps else ""
    told += f", loss {status.loss:.3f}" if status.loss is not None else ""
    told += f", {amount(status.eta)} left" if status.eta is not None else ""
    message = f"<pre>{html.escape(status.message)}</pre>" if status.message else ""
    label = 'aria-label="progress of the training"'
    progress = f'<progress value="{status.step}" max="{status.steps or 1}" {label}></progress>'
    # The state alone is read aloud when it changes: every step would never end.
    return f'{progress}<div><span role="status">{html.escape(status.name)}: {status.state}</span>{told}</div>{message}'


class TrainTab:
    """The tab's components and what they do."""

    def __init__(self, studio: Studio, jobs: Jobs) -> None:
        self.studio, self.jobs = studio, jobs
        self.base = studio.default_base
        self.sent = gr.State({"names": [], "rows": [], "sheet": ""})  # what the page shows already
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._photos()
                self._settings()
            with gr.Column(scale=3, min_width=320):
                self._progress()
        self._wire()

    def _photos(self) -> None:
        kinds = [".jpg", ".jpeg", ".png", ".webp"]
        label = f"{FEWEST_PHOTOS} to {MOST_PHOTOS} photos of one subject"
        self.photos = own_files(gr.File(label=label, file_count="multiple", file_types=kinds, height=150))
        self.checked = gr.Dataframe(
            headers=["photo", "pixels", "note"], label="What they are", interactive=False, wrap=True, visible=False
        )
        self.upright = gr.Gallery(
            label="As they will be seen",
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
            self.rate = gr.Number(preset.learning_rate, label="Learning rate")
            self.prior = gr.Dropdown(list(PRIORS), value=PRIORS[0], label="What keeps the class as it was")
            self.text_encoder = gr.Checkbox(True, label="Adapt the text encoder too")
            self.token = gr.Textbox("sks", label="Rare word that names the subject")
            self.seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        self.start = gr.Button("Start training", variant="primary", elem_id="train")
        self.started = gr.Textbox(label="Last started", interactive=False)

    def _progress(self) -> None:
        self.job = gr.Dropdown(label="Training", choices=[], value=None, allow_custom_value=True)
        self.bar = gr.HTML("No training yet.", elem_id="progress")
        with gr.Row():
            self.stop = gr.Button("Stop after this step", variant="stop", interactive=False, elem_id="stop")
            self.go_on = gr.Button("Resume", interactive=False, elem_id="resume")
        self.samples = gr.Image(
            label="Samples, drawn as it trains",
            type="filepath",
            format="png",
            interactive=False,
            visible=False,
            elem_id="samples",
            show_label=False,
            buttons=["download", "fullscreen"],
        )
        self.table = gr.Dataframe(headers=HEADERS, label="All trainings", interactive=False)
        self.timer = gr.Timer(EVERY)

    def _wire(self) -> None:
        looked = [self.checked, self.upright, self.noun]
        self.photos.change(
            telling(self.look), [self.photos, self.noun], looked, **{**PRIVATE, "show_progress": "minimal"}
        )
        wanted = [
            *(self.photos, self.noun, self.name, self.steps, self.rate, self.prior, self.text_encoder, self.token),
            self.seed,
        ]
        trained = [self.started, self.job]
        self.start.click(telling(self.train), wanted, trained, api_name="train", queue=False)
        self.timer.tick(self.watch, [self.job, self.sent], self.watched, **PRIVATE)
        self.stop.click(telling(self.end), self.job, None, **PRIVATE)
        self.go_on.click(telling(self.resume), self.job, None, **PRIVATE)

    @property
    def watched(self) -> list[Any]:
        """What `watch` fills."""
        return [self.job, self.bar, self.table, self.samples, self.sent, self.stop, self.go_on]

    def look(self, files: list[str] | None, noun: str) -> tuple[Any, ...]:
        """What the chosen photos are, and what they may show."""
        if not files:
            return gr.update(visible=False), gr.update(visible=False), gr.skip()
        found = check([Path(file) for file in files[: 2 * MOST_PHOTOS]], self.base.preset.resolution)
        if not FEWEST_PHOTOS <= len(files) <= MOST_PHOTOS:
            gr.Warning(f"{len(files)} photos; {FEWEST_PHOTOS} to {MOST_PHOTOS} can be trained on")
        shown = gr.update(value=found.images, visible=bool(found.images))
        return gr.update(value=found.rows, visible=True), shown, noun or found.noun

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
        """Queues a training of the photos, and returns its name."""
        paths = [Path(file) for file in photos or []]
        found = check(paths[: MOST_PHOTOS + 1], self.base.preset.resolution)
        if found.unreadable:
            wrong = "\n".join(f"{name}: {note}" for name, pixels, note in found.rows if pixels == UNREADABLE)
            raise VectorFitError(f"{found.unreadable} of {len(paths)} photos cannot be used; take them out:\n{wrong}")
        noun = (class_noun or "").strip() or found.noun
        if not noun:
            raise VectorFitError("what is it? Say one noun, such as dog; the photos' names do not tell")
        flags = {"base_model": self.base.location if self.base.name != "starter" else "starter", "class_noun": noun}
        flags |= {"token": (token or "sks").strip(), "prior": prior, "seed": str(whole(seed or 0, "seed"))}
        flags |= {"max_train_steps": str(whole(steps, "steps"))} if steps is not None else {}
        flags |= {"learning_rate": str(number(learning_rate, "learning rate"))} if learning_rate is not None else {}
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        arguments += [] if train_text_encoder else ["--no-train_text_encoder"]
        require_sound(arguments)
        job = self.jobs.add(paths, name or noun, arguments)
        waiting = sum(other.waiting for other in self.jobs.all())
        told = f"{job.name}: {f'waits, {waiting} in the queue' if job.waiting else 'started'}"
        return told, job.name

    def watch(self, name: str | None, sent: dict) -> tuple[Any, ...]:
        """The trainings now. What has not changed is not sent again, and nobody's choice is undone."""
        found = [self.jobs.status(job) for job in reversed(self.jobs.all())]
        if not found:
            return (gr.skip(),) * len(self.watched)
        names, rows = [status.name for status in found], [row(status) for status in found]
        busy = next((status.name for status in found if status.state == RUNNING), names[0])
        chosen = found[names.index(name if name in names else busy)]
        menu = {"value": chosen.name} if name not in names else {}
        menu |= {"choices": names} if names != sent["names"] else {}
        sheet = f"{chosen.samples} {chosen.samples.stat().st_mtime_ns}" if chosen.samples else ""
        return (
            gr.update(**menu) if menu else gr.skip(),
            bar(chosen),
            gr.skip() if rows == sent["rows"] else rows,
            gr.skip() if sheet == sent["sheet"] else self._picture(chosen.samples),
            {"names": names, "rows": rows, "sheet": sheet},
            gr.update(interactive=chosen.state in (RUNNING, QUEUED)),
            gr.update(interactive=chosen.state in (STOPPED, FAILED)),
        )

    def _picture(self, samples: Path | None) -> Any:
        """The sample grid, as a copy: gradio shows no file of the root."""
        copied = shutil.copyfile(samples, self.studio.folder() / "samples.png") if samples else None
        return gr.update(value=copied, visible=samples is not None)

    def end(self, name: str | None) -> None:
        """Stops the chosen training after its running step; its checkpoint stays."""
        self.jobs.stop(name or "")

    def resume(self, name: str | None) -> None:
        """Lets the chosen training go on."""
        self.jobs.resume(name or "")


def require_sound(arguments: list[str]) -> None:
    """Raises VectorFitError for settings that the training would refuse, before it is queued."""
    problems = Problems()
    parse(["--instance_dir=.", *arguments], problems)
    problems.raise_all()
