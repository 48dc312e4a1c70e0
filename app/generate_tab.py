"""The tab that draws: subjects, words and settings here, the base's and the personalised pictures there."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.engine import OWN_SCHEDULER, SCHEDULERS
from vf_dreambooth.images import read_parameters

from .drawing import MOST_PICTURES, SIZES, Picture, Studio, Wish
from .forms import number, own_files, telling, whole
from .sessions import Sessions
from .subjects import Library, Subject

NONE = "(none)"  # the choice of no subject
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}  # what draws takes turns
TILE = 192  # pixels of a thumbnail in the list


def label(subject: Subject) -> str:
    """How a subject is called in lists."""
    kind = "" if subject.method == "vectorfit" else f", {subject.method}"
    return f"{subject.name}: “{subject.trigger}” on {subject.base}{kind}"


def choices(library: Library) -> list[tuple[str, str]]:
    return [(label(subject), subject.name) for subject in library.all()]


def tiles(subjects: Sequence[Subject]) -> list[tuple[Image.Image, str]]:
    """A picture and the name of every subject; a grey square where a file carries no picture."""
    found = []
    for subject in subjects:
        picture = subject.thumbnail() or Image.new("RGB", (TILE, TILE), (160, 160, 160))
        found.append((picture.resize((TILE, TILE), Image.Resampling.LANCZOS), subject.name.rpartition("/")[2]))
    return found


def shown(pictures: list[Picture]) -> list[tuple[str, str]]:
    return [(str(picture.path), f"seed {picture.parameters['seed']}") for picture in pictures]


def with_trigger(prompt: str, before: str, now: str) -> str:
    """The prompt, speaking of the newly chosen subject instead of the one before."""
    if before and before in prompt:
        return prompt.replace(before, now)
    return prompt if now in prompt else f"a photo of {now}"


def show_progress(progress: gr.Progress) -> Callable[[int, int, str], None]:
    return lambda done, total, what: progress((done, total), desc=f"drawing {what}", unit="steps")


class GenerateTab:
    """The tab's components and what they do."""

    def __init__(self, studio: Studio, sessions: Sessions) -> None:
        self.studio, self.sessions, self.library = studio, sessions, studio.library
        self.last = gr.State([])  # parameters of the pictures in the personalised gallery
        self.listed = gr.State([])  # the names behind the tiles
        self.spoken = gr.State({"trigger": "", "base": ""})  # what prompt and settings were filled in for
        self.picked = gr.State(0)  # the picture that was clicked
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._subjects()
                self._words()
                self._settings()
            with gr.Column(scale=3, min_width=320):
                self._results()
        self._wire()

    def _subjects(self) -> None:
        self.tiles = gr.Gallery(
            label="Subjects",
            show_label=False,
            columns=4,
            height="auto",
            fit_columns=False,
            allow_preview=False,
            object_fit="cover",
            elem_id="subjects",
            buttons=[],
            interactive=False,
        )
        self.subject = gr.Dropdown(label="Subject", value=NONE, choices=[NONE], allow_custom_value=True)
        self.strength = gr.Slider(
            0, 2, 1, step=0.05, label="Strength", info="0 is the base model, 1 the trained subject"
        )
        with gr.Accordion("Mix with a second subject", open=False):
            self.second = gr.Dropdown(label="Second subject", value=NONE, choices=[NONE], allow_custom_value=True)
            self.second_strength = gr.Slider(0, 2, 1, step=0.05, label="Its strength")
        with gr.Row():
            self.refresh = gr.Button("Refresh list", size="sm")
            self.upload = own_files(gr.UploadButton("Add a subject file", file_types=[".safetensors"], size="sm"))

    def _words(self) -> None:
        self.prompt = gr.Textbox("", label="Prompt", lines=2, placeholder="a photo of sks dog in the snow")
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="generate")
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")

    def _settings(self) -> None:
        sampling = self.studio.sampling(None)
        self.compare = gr.Checkbox(True, label="Show the base model's pictures too", info="at the same seeds")
        self.count = gr.Slider(1, MOST_PICTURES, 2, step=1, label="Pictures")
        with gr.Row():
            self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed of the first picture")
            self.random = gr.Checkbox(True, label="Random seed")
        with gr.Accordion("More settings", open=False):
            self.negative = gr.Textbox("", label="Negative prompt", info="what should not be shown")
            self.steps = gr.Slider(1, 200, sampling.num_inference_steps, step=1, label="Steps")
            self.guidance = gr.Slider(0, 30, sampling.guidance_scale, step=0.5, label="Guidance")
            self.size = gr.Slider(*SIZES, sampling.resolution, step=64, label="Width and height in pixels")
            self.sampler = gr.Dropdown([OWN_SCHEDULER, *SCHEDULERS], value=OWN_SCHEDULER, label="Sampler")
            taken = gr.UploadButton("Take the settings of a picture (PNG)", file_types=[".png"], size="sm")
            self.from_picture = own_files(taken)

    def _results(self) -> None:
        with gr.Row():
            kept = {"columns": 2, "object_fit": "contain", "format": "png", "buttons": ["download", "fullscreen"]}
            self.base_pictures = gr.Gallery(label="Base model", interactive=False, elem_id="base-pictures", **kept)
            self.pictures = gr.Gallery(label="Personalised", interactive=False, elem_id="pictures", **kept)
        with gr.Row():
            self.used = gr.Textbox(label="Seeds used", interactive=False)
            self.note = gr.Textbox(label="Note", interactive=False)
        with gr.Row():
            self.reuse = gr.Button("Use this seed again", size="sm")
            self.again = gr.Button("Use the chosen picture's settings", size="sm")

    @property
    def form(self) -> list[Any]:
        """What `settings_of` fills in, in its order."""
        return [
            *(self.subject, self.strength, self.second, self.second_strength, self.prompt, self.negative, self.seed),
            *(self.random, self.steps, self.guidance, self.size, self.sampler, self.spoken),
        ]

    def _wire(self) -> None:
        chosen = [self.prompt, self.spoken, self.steps, self.guidance, self.size]
        choose = {"fn": self.choose, "inputs": [self.subject, self.prompt, self.spoken], "outputs": chosen, **PRIVATE}
        self.choosing = choose
        self.subject.input(**choose)
        self.tiles.select(self.pick_subject, self.listed, self.subject, **PRIVATE).then(**choose)
        self.upload.upload(telling(self.add), self.upload, self.lists, **PRIVATE).then(**choose)
        wanted = [
            *(self.subject, self.strength, self.second, self.second_strength, self.prompt, self.negative, self.count),
            *(self.seed, self.random, self.steps, self.guidance, self.size, self.sampler, self.compare),
        ]
        drawn = [self.pictures, self.base_pictures, self.used, self.note, self.last, self.picked]
        drawing = self.go.click(
            telling(self.generate), wanted, drawn, api_name="generate", show_progress_on=[self.pictures], **DEVICE
        )
        self.cancel.click(self.stop, None, self.note, cancels=[drawing], **PRIVATE)
        self.pictures.select(self.pick_picture, None, self.picked, **PRIVATE)
        self.reuse.click(self.first_seed, self.last, [self.seed, self.random], **PRIVATE)
        self.again.click(telling(self.settings_again), [self.last, self.picked], self.form, **PRIVATE)
        self.from_picture.upload(telling(self.settings_of), self.from_picture, self.form, **PRIVATE)

    @property
    def lists(self) -> list[Any]:
        """What `refreshed` fills."""
        return [self.subject, self.second, self.tiles, self.listed]

    def first(self, chosen: str) -> str:
        """The first subject, where none is chosen yet."""
        return next((subject.name for subject in self.library.all()), NONE) if chosen == NONE else chosen

    def refreshed(self) -> tuple[Any, ...]:
        """The list of subjects anew: both menus, the tiles and the names behind them."""
        subjects = self.library.all()
        menu = gr.update(choices=[NONE, *((label(subject), subject.name) for subject in subjects)])
        return menu, menu, tiles(subjects), [subject.name for subject in subjects]

    def add(self, file: str) -> tuple[Any, ...]:
        """Takes an uploaded subject file into the library, and chooses it."""
        added = self.library.add(Path(file))
        menu, *others = self.refreshed()
        return {**menu, "value": added.name}, *others

    def pick_subject(self, names: list[str], event: gr.SelectData) -> str:
        """The subject whose tile was clicked."""
        return names[event.index] if 0 <= event.index < len(names) else NONE

    def pick_picture(self, event: gr.SelectData) -> int:
        return int(event.index)

    def choose(self, name: str | None, prompt: str, spoken: dict[str, str]) -> tuple[Any, ...]:
        """Fills in the prompt, and where the base is another one the settings that suit it."""
        try:
            subject = self.library.find(name) if name and name != NONE else None
            sampling = self.studio.sampling(subject and subject.name)
        except VectorFitError:
            return (gr.skip(),) * 5  # said when something is drawn
        trigger, base = (subject.trigger, subject.base) if subject else ("", self.studio.default_base.name)
        prompt = with_trigger(prompt, spoken["trigger"], trigger) if trigger else prompt
        suited: tuple[Any, ...] = sampling.num_inference_steps, sampling.guidance_scale, sampling.resolution
        if spoken["base"] in ("", base):  # whatever a person has set stays
            suited = (gr.skip(),) * 3
        return prompt, {"trigger": trigger, "base": base}, *suited

    def generate(
        self,
        subject: str,
        strength: float,
        second: str,
        second_strength: float,
        prompt: str,
        negative_prompt: str,
        count: int,
        seed: float,
        random_seed: bool,
        steps: int,
        guidance: float,
        size: int,
        sampler: str,
        compare: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio is told of it
    ) -> tuple[Any, ...]:
        """Draws pictures of a subject, and the base model's at the same seeds."""
        asked = ((subject, strength, "strength"), (second, second_strength, "strength of the second"))
        wish = Wish(
            tuple((name, number(value, what)) for name, value, what in asked if name not in (None, "", NONE)),
            prompt or "",
            negative_prompt or "",
            random.randrange(2**32 - MOST_PICTURES) if random_seed else whole(seed, "seed"),
            whole(count, "pictures"),
            whole(steps, "steps"),
            number(guidance, "guidance"),
            whole(size, "size"),
            sampler,
        )
        with self.sessions.drawing(request.session_hash) as stop:
            outcome = self.studio.draw(wish, compare, show_progress(progress), stop)
        seeds = ", ".join(str(picture.parameters["seed"]) for picture in outcome.own)
        kept = [picture.parameters for picture in outcome.own]
        return shown(outcome.own), shown(outcome.base), seeds, "\n".join(outcome.notes), kept, 0

    def stop(self, request: gr.Request) -> str:
        """Ends what this session is drawing."""
        self.sessions.stop(request.session_hash)
        return "Cancelled."

    def first_seed(self, last: list[dict]) -> tuple[Any, Any]:
        return (last[0]["seed"], False) if last else (gr.skip(), gr.skip())

    def settings_again(self, last: list[dict], picked: int) -> tuple[Any, ...]:
        """The form as it was for the chosen picture."""
        if not last:
            raise VectorFitError("nothing was drawn yet; generate a picture first")
        return self._filled(last[picked if 0 <= picked < len(last) else 0])

    def settings_of(self, file: str) -> tuple[Any, ...]:
        """The form as it was for a picture that was downloaded."""
        return self._filled(read_parameters(Path(file)))

    def _filled(self, told: dict) -> tuple[Any, ...]:
        try:
            subjects = [(str(each["name"]), float(each["strength"])) for each in told["subjects"]][:2]
            numbers = int(told["seed"]), int(told["num_inference_steps"]), float(told["guidance_scale"])
            words = str(told["prompt"]), str(told["negative_prompt"]), str(told["sampler"])
            size = int(told["resolution"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VectorFitError(f"the picture tells of no settings of this page ({error!r})") from error
        subjects += [(NONE, 1.0)] * (2 - len(subjects))
        (first, second), (seed, steps, guidance), (prompt, negative, sampler) = subjects, numbers, words
        known = {subject.name: subject for subject in self.library.all()}
        subject = known.get(first[0])
        spoken = {"trigger": subject.trigger if subject else "", "base": subject.base if subject else ""}
        return *first, *second, prompt, negative, seed, False, steps, guidance, size, sampler, spoken


PRIVATE: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
