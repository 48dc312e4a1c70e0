"""The Generate tab: choose a subject, write a prompt, see the personalised images beside the base's."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.engine import OWN_SCHEDULER, SCHEDULERS
from vf_dreambooth.images import read_parameters

from .components import NO_SUBJECT, ON_DEVICE, PRIVATE, step_progress, subject_label, uploads_only
from .generation import MAX_IMAGES, SIZES, Generator, ImageRequest, SavedImage
from .handlers import number, shows_errors, whole_number
from .sessions import Sessions
from .subjects import Subject

TILE = 192  # pixels of a subject's tile


def tiles(subjects: Sequence[Subject]) -> list[tuple[Image.Image, str]]:
    """(thumbnail, name) of every subject; a grey square if a file has no thumbnail."""
    thumbnails = [subject.thumbnail() or Image.new("RGB", (TILE, TILE), (160, 160, 160)) for subject in subjects]
    resized = [thumbnail.resize((TILE, TILE), Image.Resampling.LANCZOS) for thumbnail in thumbnails]
    return [(image, subject.name.rpartition("/")[2]) for image, subject in zip(resized, subjects, strict=True)]


def gallery(images: list[SavedImage]) -> list[tuple[str, str]]:
    """Images for a gallery: (path, caption)."""
    return [(str(image.path), f"seed {image.parameters['seed']}") for image in images]


def with_trigger(prompt: str, previous: str, trigger: str) -> str:
    """The prompt with the previous subject's trigger phrase replaced by the new one."""
    if previous and previous in prompt:
        return prompt.replace(previous, trigger)
    return prompt if trigger in prompt else f"a photo of {trigger}"


class GenerateTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator, sessions: Sessions) -> None:
        self.generator, self.sessions, self.library = generator, sessions, generator.library
        self.last_parameters = gr.State([])  # of the images in the personalised gallery
        self.tile_names = gr.State([])  # the subject of each tile
        self.filled_for = gr.State({"trigger": "", "base": ""})  # what prompt and settings were filled in for
        self.selected = gr.State(0)  # index of the clicked image
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._subjects()
                self._prompt()
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
        self.subject = gr.Dropdown(label="Subject", value=NO_SUBJECT, choices=[NO_SUBJECT], allow_custom_value=True)
        self.strength = gr.Slider(
            0, 2, 1, step=0.05, label="Strength", info="0 is the base model, 1 the trained subject"
        )
        with gr.Accordion("Mix with a second subject", open=False):
            self.second = gr.Dropdown(
                label="Second subject", value=NO_SUBJECT, choices=[NO_SUBJECT], allow_custom_value=True
            )
            self.second_strength = gr.Slider(0, 2, 1, step=0.05, label="Its strength")
        with gr.Row():
            self.refresh = gr.Button("Refresh list", size="sm")
            self.upload = uploads_only(gr.UploadButton("Add a subject file", file_types=[".safetensors"], size="sm"))

    def _prompt(self) -> None:
        self.prompt = gr.Textbox("", label="Prompt", lines=2, placeholder="a photo of sks dog in the snow")
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="generate")
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")

    def _settings(self) -> None:
        sampling = self.generator.sampling(None)
        self.compare = gr.Checkbox(True, label="Show the base model's images too", info="at the same seeds")
        self.count = gr.Slider(1, MAX_IMAGES, 2, step=1, label="Images")
        with gr.Row():
            self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed of the first image")
            self.random = gr.Checkbox(True, label="Random seed")
        with gr.Accordion("More settings", open=False):
            self.negative = gr.Textbox("", label="Negative prompt", info="what the images should not show")
            self.steps = gr.Slider(1, 200, sampling.num_inference_steps, step=1, label="Steps")
            self.guidance = gr.Slider(0, 30, sampling.guidance_scale, step=0.5, label="Guidance")
            self.size = gr.Slider(*SIZES, sampling.resolution, step=64, label="Width and height in pixels")
            self.sampler = gr.Dropdown([OWN_SCHEDULER, *SCHEDULERS], value=OWN_SCHEDULER, label="Sampler")
            upload = gr.UploadButton("Load the settings of an image (PNG)", file_types=[".png"], size="sm")
            self.from_image = uploads_only(upload)

    def _results(self) -> None:
        with gr.Row():
            options = {"columns": 2, "object_fit": "contain", "format": "png", "buttons": ["download", "fullscreen"]}
            self.base_images = gr.Gallery(label="Base model", interactive=False, elem_id="base-pictures", **options)
            self.images = gr.Gallery(label="Personalised", interactive=False, elem_id="pictures", **options)
        with gr.Row():
            self.seeds = gr.Textbox(label="Seeds used", interactive=False)
            self.note = gr.Textbox(label="Note", interactive=False)
        with gr.Row():
            self.reuse_seed = gr.Button("Use this seed again", size="sm")
            self.reuse_settings = gr.Button("Use the selected image's settings", size="sm")

    @property
    def form(self) -> list[Any]:
        """The fields that `load_settings` fills, in its order."""
        return [
            *(self.subject, self.strength, self.second, self.second_strength, self.prompt, self.negative, self.seed),
            *(self.random, self.steps, self.guidance, self.size, self.sampler, self.filled_for),
        ]

    def _wire(self) -> None:
        fill_in = {
            "fn": self.fill_in,
            "inputs": [self.subject, self.prompt, self.filled_for],
            "outputs": [self.prompt, self.filled_for, self.steps, self.guidance, self.size],
            **PRIVATE,
        }
        self.fill_in_event = fill_in
        self.subject.input(**fill_in)
        self.tiles.select(self.select_subject, self.tile_names, self.subject, **PRIVATE).then(**fill_in)
        self.upload.upload(shows_errors(self.add), self.upload, self.lists, **PRIVATE).then(**fill_in)
        inputs = [
            *(self.subject, self.strength, self.second, self.second_strength, self.prompt, self.negative, self.count),
            *(self.seed, self.random, self.steps, self.guidance, self.size, self.sampler, self.compare),
        ]
        outputs = [self.images, self.base_images, self.seeds, self.note, self.last_parameters, self.selected]
        generation = self.go.click(
            shows_errors(self.generate),
            inputs,
            outputs,
            api_name="generate",
            show_progress_on=[self.images],
            **ON_DEVICE,
        )
        self.cancel.click(self.cancel_generation, None, self.note, cancels=[generation], **PRIVATE)
        self.images.select(self.select_image, None, self.selected, **PRIVATE)
        self.reuse_seed.click(self.first_seed, self.last_parameters, [self.seed, self.random], **PRIVATE)
        last_image = [self.last_parameters, self.selected]
        self.reuse_settings.click(shows_errors(self.restore_settings), last_image, self.form, **PRIVATE)
        self.from_image.upload(shows_errors(self.load_settings), self.from_image, self.form, **PRIVATE)

    @property
    def lists(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.subject, self.second, self.tiles, self.tile_names]

    def first(self, chosen: str) -> str:
        """The chosen subject; the library's first if none is chosen yet."""
        return next((subject.name for subject in self.library.all()), NO_SUBJECT) if chosen == NO_SUBJECT else chosen

    def refreshed(self) -> tuple[Any, ...]:
        """The current list of subjects: both menus, the tiles, and the tiles' names."""
        subjects = self.library.all()
        menu = gr.update(choices=[NO_SUBJECT, *((subject_label(subject), subject.name) for subject in subjects)])
        return menu, menu, tiles(subjects), [subject.name for subject in subjects]

    def add(self, file: str) -> tuple[Any, ...]:
        """Adds an uploaded subject file to the library and selects it."""
        added = self.library.add(Path(file))
        menu, *others = self.refreshed()
        return {**menu, "value": added.name}, *others

    def select_subject(self, names: list[str], event: gr.SelectData) -> str:
        """The subject whose tile was clicked."""
        return names[event.index] if 0 <= event.index < len(names) else NO_SUBJECT

    def select_image(self, event: gr.SelectData) -> int:
        return int(event.index)

    def fill_in(self, name: str | None, prompt: str, filled_for: dict[str, str]) -> tuple[Any, ...]:
        """Fills in the prompt for a subject, and the default settings of its base if the base changed."""
        try:
            subject = self.library.find(name) if name and name != NO_SUBJECT else None
            sampling = self.generator.sampling(subject and subject.name)
        except VectorFitError:
            return (gr.skip(),) * 5  # `generate` will show the error
        trigger, base = (subject.trigger, subject.base) if subject else ("", self.generator.default_base.name)
        prompt = with_trigger(prompt, filled_for["trigger"], trigger) if trigger else prompt
        settings: tuple[Any, ...] = sampling.num_inference_steps, sampling.guidance_scale, sampling.resolution
        if filled_for["base"] in ("", base):  # keep the person's own settings
            settings = (gr.skip(),) * 3
        return prompt, {"trigger": trigger, "base": base}, *settings

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
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for this default
    ) -> tuple[Any, ...]:
        """Generates images of a subject, and the base model's images at the same seeds."""
        strengths = ((subject, strength, "strength"), (second, second_strength, "strength of the second"))
        wanted = ImageRequest(
            tuple(
                (name, number(value, field)) for name, value, field in strengths if name not in (None, "", NO_SUBJECT)
            ),
            prompt or "",
            negative_prompt or "",
            random.randrange(2**32 - MAX_IMAGES) if random_seed else whole_number(seed, "seed"),
            whole_number(count, "images"),
            whole_number(steps, "steps"),
            number(guidance, "guidance"),
            whole_number(size, "size"),
            sampler,
        )
        with self.sessions.generating(request.session_hash) as cancel:
            result = self.generator.generate(wanted, compare, step_progress(progress), cancel)
        parameters = [image.parameters for image in result.images]
        seeds = ", ".join(str(each["seed"]) for each in parameters)
        return gallery(result.images), gallery(result.base_images), seeds, "\n".join(result.notes), parameters, 0

    def cancel_generation(self, request: gr.Request) -> str:
        """Cancels this session's generation."""
        self.sessions.cancel(request.session_hash)
        return "Cancelled."

    def first_seed(self, last_parameters: list[dict]) -> tuple[Any, Any]:
        return (last_parameters[0]["seed"], False) if last_parameters else (gr.skip(), gr.skip())

    def restore_settings(self, last_parameters: list[dict], selected: int) -> tuple[Any, ...]:
        """The form with the settings of the selected image."""
        if not last_parameters:
            raise VectorFitError("there is no image yet; generate one first")
        return self._form_of(last_parameters[selected if 0 <= selected < len(last_parameters) else 0])

    def load_settings(self, file: str) -> tuple[Any, ...]:
        """The form with the settings of an uploaded image."""
        return self._form_of(read_parameters(Path(file)))

    def _form_of(self, parameters: dict) -> tuple[Any, ...]:
        try:
            subjects = [(str(each["name"]), float(each["strength"])) for each in parameters["subjects"]][:2]
            prompt, negative = str(parameters["prompt"]), str(parameters["negative_prompt"])
            seed, steps = int(parameters["seed"]), int(parameters["num_inference_steps"])
            guidance, size = float(parameters["guidance_scale"]), int(parameters["resolution"])
            sampler = str(parameters["sampler"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VectorFitError(f"the image does not carry settings of this page ({error!r})") from error
        first, second = (subjects + [(NO_SUBJECT, 1.0)] * 2)[:2]
        subject = {each.name: each for each in self.library.all()}.get(first[0])
        filled_for = {"trigger": subject.trigger if subject else "", "base": subject.base if subject else ""}
        return *first, *second, prompt, negative, seed, False, steps, guidance, size, sampler, filled_for
