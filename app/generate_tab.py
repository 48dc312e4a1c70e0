"""The Generate tab: choose a subject, say what to draw, see it beside the base's pictures."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from vectorfit import VectorFitError
from vf_dreambooth.engine import OWN_SCHEDULER, SCHEDULERS
from vf_dreambooth.images import read_parameters

from . import cards, prompt_tokens
from .cards import ACTIONS, NO_SUBJECT
from .components import OFTEN, ON_DEVICE, PRIVATE, step_progress, subject_choices, uploads_only
from .drawings import Drawings, Progress
from .gallery import Drawing, Gallery
from .generation import MAX_IMAGES, SIZES, Cancelled, Generator, SavedImage
from .handlers import shows_errors, streams_errors
from .request_form import fields_of, request_of, with_trigger
from .sessions import Sessions
from .subject_tiles import SubjectPictures
from .subjects import Subject

EXAMPLES = ("a photo of {}", "{} in the snow", "{} on the beach", "{} on top of a purple rug")
CLASS_EXAMPLES = ("a photo of a dog", "a photo of a cat in the snow", "a car on the beach")
REFRESH = 0.3  # seconds between two looks at a drawing in progress


def image_list(images: list[SavedImage]) -> list[tuple[str, str]]:
    """Images of an API answer: (path, caption)."""
    return [(str(image.path), f"seed {image.parameters['seed']}") for image in images]


class GenerateTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator, gallery: Gallery, drawings: Drawings, sessions: Sessions) -> None:
        self.generator, self.gallery, self.drawings, self.sessions = generator, gallery, drawings, sessions
        self.library, self.pictures = generator.library, SubjectPictures(generator.library)
        self.key = gr.BrowserState("", storage_key="vectorfit-gallery", secret="vectorfit-gallery")
        self.filled_for = gr.State({"trigger": "", "base": ""})  # what prompt and settings were filled in for
        with gr.Row(elem_id="drawing-table"):  # its three parts: the results are beside, on a phone between
            with gr.Column(min_width=300, elem_id="asked"):
                self._subject()
                self._prompt()
            with gr.Column(min_width=300, elem_id="fine"):
                self._settings()
            with gr.Column(min_width=300, elem_id="seen"):
                self.references = gr.HTML("", elem_id="references")
                self.results = gr.HTML(cards.results(None), js_on_load=ACTIONS, elem_id="results")
        self._api()
        self._wire()

    def _subject(self) -> None:
        self.subject = gr.Textbox(NO_SUBJECT, label="Subject", visible=False)
        self.tiles = gr.HTML(cards.tiles([], {}, NO_SUBJECT), js_on_load=ACTIONS, elem_id="subjects")

    def _prompt(self) -> None:
        self.prompt = gr.Textbox(
            "", label="Prompt", lines=2, placeholder="Say what to draw", elem_id="prompt", max_length=4000
        )
        self.tokens = gr.HTML("", elem_id="tokens")
        self.examples = gr.HTML("", js_on_load=ACTIONS, elem_id="examples")
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="generate", size="lg")
            self.cancel = gr.Button("Cancel", visible=False, elem_id="cancel", size="lg")

    def _settings(self) -> None:
        sampling = self.generator.sampling(None)
        with gr.Row():
            self.strength = gr.Slider(0, 2, 1, step=0.05, label="Strength", info="0 base · 1 as trained", min_width=130)
            self.count = gr.Slider(1, MAX_IMAGES, 2, step=1, label="Pictures", info="each with a seed", min_width=130)
        self.compare = gr.Checkbox(True, label="Draw the base model's picture beside each", container=False)
        with gr.Accordion("Mix with a second subject", open=False):
            self.second = gr.Dropdown(
                label="Second subject", value=NO_SUBJECT, choices=[NO_SUBJECT], allow_custom_value=True
            )
            self.second_strength = gr.Slider(0, 2, 1, step=0.05, label="Its strength")
            self.hint = gr.HTML("", js_on_load=ACTIONS, elem_id="mixing")
        with gr.Accordion("Settings", open=False):
            with gr.Row():
                self.seed = gr.Number(
                    0, precision=0, minimum=0, maximum=2**32 - 1, label="First seed", min_width=130, elem_id="seed"
                )
                self.random = gr.Checkbox(True, label="A new seed each time", min_width=130)
            self.negative = gr.Textbox("", label="Negative prompt", info="what the pictures should not show")
            self.steps = gr.Slider(1, 200, sampling.num_inference_steps, step=1, label="Steps")
            self.guidance = gr.Slider(0, 30, sampling.guidance_scale, step=0.5, label="Guidance")
            self.sampler = gr.Dropdown([OWN_SCHEDULER, *SCHEDULERS], value=OWN_SCHEDULER, label="Scheduler")
            self.size = gr.Slider(*SIZES, sampling.resolution, step=64, label="Width and height in pixels")
            upload = gr.UploadButton("Take the settings of a picture (PNG)", file_types=[".png"], size="sm")
            self.from_image = uploads_only(upload)
        self.upload = uploads_only(gr.UploadButton("Add a subject file", file_types=[".safetensors"], size="sm"))

    def _api(self) -> None:
        """The components of the API's answer; the page itself shows a drawing while it is made."""
        with gr.Column(visible=False):
            self.api_images = [gr.Gallery(label="Personalised", format="png"), gr.Gallery(label="Base", format="png")]
            self.api_texts = [gr.Textbox(label="Seeds"), gr.Textbox(label="Note")]
            self.api_button = gr.Button("generate")

    @property
    def form(self) -> list[Any]:
        """The fields that settings fill, in the order of `fields_of`, and what they were filled in for."""
        return [
            *(self.subject, self.strength, self.second, self.second_strength, self.prompt, self.negative, self.seed),
            *(self.random, self.steps, self.guidance, self.size, self.sampler, self.filled_for),
        ]

    @property
    def filling(self) -> dict[str, Any]:
        """The event that fills in the prompt and the settings for the chosen subject."""
        return {
            "fn": self.fill_in,
            "inputs": [self.subject, self.prompt, self.filled_for],
            "outputs": [self.prompt, self.filled_for, self.steps, self.guidance, self.size],
            **PRIVATE,
        }

    def _wire(self) -> None:
        shown = {"fn": self.show_subject, "inputs": self.subject, **PRIVATE}
        shown["outputs"] = [self.tiles, self.references, self.examples]
        self.tiles.click(self.act, None, self.subject, **PRIVATE).then(**self.filling)
        counted = {"inputs": [self.prompt, self.subject], "outputs": self.tokens, **OFTEN}
        self.subject.change(**shown).then(self.tokens_of, **counted)
        self.examples.click(self.act, None, self.prompt, **PRIVATE)
        self.prompt.change(self.tokens_of, trigger_mode="always_last", **counted)
        gr.on(
            [self.second.change, self.subject.change],
            self.mixing_hint,
            [self.subject, self.second],
            self.hint,
            **PRIVATE,
        )
        self.hint.click(self.act, None, self.prompt, **PRIVATE)
        self.upload.upload(shows_errors(self.add), self.upload, self.lists, **PRIVATE).then(**self.filling)
        inputs = [
            *(self.subject, self.strength, self.second, self.second_strength, self.prompt, self.negative, self.count),
            *(self.seed, self.random, self.steps, self.guidance, self.size, self.sampler, self.compare),
        ]
        self.drawing = self.go.click(
            streams_errors(self.draw),
            [self.key, *inputs],
            [self.results, self.go, self.cancel],
            **PRIVATE,
        )
        self.cancel.click(self.cancel_drawing, self.key, self.cancel, **PRIVATE)
        self.from_image.upload(shows_errors(self.load_settings), self.from_image, self.form, **PRIVATE)
        outputs = [*self.api_images, *self.api_texts]
        self.api_button.click(shows_errors(self.generate), inputs, outputs, api_name="generate", **ON_DEVICE)

    @property
    def lists(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.second, self.tiles]

    def refreshed(self, chosen: str = NO_SUBJECT) -> tuple[Any, ...]:
        """The current list of subjects: the menu of second subjects, and the tiles."""
        return gr.update(choices=[NO_SUBJECT, *subject_choices(self.library)]), self._tiles(chosen)

    def _tiles(self, chosen: str) -> str:
        subjects = self.library.all()
        return cards.tiles(subjects, self.pictures.tiles(subjects), chosen)

    def _subject_of(self, name: str | None) -> Subject | None:
        """The subject of a name; None for the base alone or a subject that is gone."""
        return {subject.name: subject for subject in self.library.all()}.get(name or "")

    def act(self, event: gr.EventData) -> str:
        """The subject or the example that was clicked."""
        return str(event.of)

    def show_subject(self, name: str) -> tuple[str, str, str]:
        """The tiles with the chosen one pressed, its photos, and prompts to click."""
        subject = self._subject_of(name)
        photos = cards.references(subject.label, self.pictures.photos(subject)) if subject else ""
        prompts = [text.format(subject.trigger) for text in EXAMPLES] if subject else list(CLASS_EXAMPLES)
        return self._tiles(name), photos, cards.chips(prompts)

    def tokens_of(self, prompt: str, name: str) -> str:
        """How much of the prompt the base's text encoder reads, and whether it calls the subject."""
        subject = self._subject_of(name)
        try:
            base = self.library.base_of(subject) if subject else self.generator.default_base
        except VectorFitError:
            return ""
        missing = subject is not None and bool((prompt or "").strip()) and subject.trigger not in prompt
        hint = f' <span class="unsaid">It does not say “{html.escape(subject.trigger)}”.</span>' if missing else ""
        return prompt_tokens.as_html(prompt or "", base) + hint

    def mixing_hint(self, name: str, second: str) -> str:
        """How to write a prompt for two subjects."""
        one, two = self._subject_of(name), self._subject_of(second)
        if not (one and two):
            return ""
        text, prompt = "Say both in the prompt:", f"a photo of {one.trigger} and {two.trigger}"
        more = ""
        if one.trigger == two.trigger:
            text, prompt = "Both answer to the same words, so they blend into one thing:", f"a photo of {one.trigger}"
            more = "A lower strength leans to the other."
        elif one.trigger.split()[0] == two.trigger.split()[0]:
            more = "Both were trained with the same rare word, so only the nouns tell them apart."
        return f'<div class="hint">{text}{cards.chips([prompt])}{more}</div>'

    def add(self, file: str) -> tuple[Any, ...]:
        """Adds an uploaded subject file to the library."""
        added = self.library.add(Path(file))
        gr.Info(f"{html.escape(added.label)} is added; click its tile to draw it.")
        return self.refreshed()

    def fill_in(self, name: str | None, prompt: str, filled_for: dict[str, str]) -> tuple[Any, ...]:
        """Fills in the prompt for a subject, and the default settings of its base if the base changed."""
        subject = self._subject_of(name)
        try:
            sampling = self.generator.sampling(subject and subject.name)
        except VectorFitError:
            return (gr.skip(),) * 5  # `draw` will show the error
        trigger, base = (subject.trigger, subject.base) if subject else ("", self.generator.default_base.name)
        settings: tuple[Any, ...] = sampling.num_inference_steps, sampling.guidance_scale, sampling.resolution
        if filled_for["base"] in ("", base):  # keep the person's own settings
            settings = (gr.skip(),) * 3
        prompt = with_trigger(prompt, filled_for["trigger"], trigger)
        return prompt, {"trigger": trigger, "base": base}, *settings

    def draw(self, request: gr.Request, key: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draws for the page, and shows every picture as soon as it is done."""
        *fields, compare = values
        address = request.client.host if request.client else ""
        progress = self.drawings.start(key, request_of(*fields), compare, address)
        yield from self._watched(key, progress)

    def _watched(self, key: str, progress: Progress) -> Iterator[tuple[Any, ...]]:
        """What the page shows until a drawing is finished."""
        hidden, visible = gr.update(visible=False), gr.update(visible=True, interactive=True)
        seen: object = None
        while not progress.finished.wait(REFRESH if seen else 0):
            now = progress.ahead, progress.done, len(progress.drawing.images), len(progress.drawing.base_images)
            if now != seen:
                seen = now
                yield cards.results(progress.drawing, progress), hidden, visible
        newest = next(iter(self.gallery.all(key)), None)
        yield cards.results(newest), visible, hidden
        if isinstance(progress.error, Cancelled):
            gr.Info("Cancelled. What was drawn is kept.")
        elif progress.error is not None:
            raise progress.error

    def resumed(self, key: str) -> Iterator[tuple[Any, ...]]:
        """Shows the drawing that was in progress when the page was reloaded."""
        progress = self.drawings.running(key)
        if progress is None:
            yield (gr.skip(),) * 3
        else:
            yield from self._watched(key, progress)

    def cancel_drawing(self, key: str) -> Any:
        """Cancels this browser's drawing."""
        self.drawings.cancel(key)
        return gr.update(interactive=False)

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
        """Generates images of a subject, and the base model's images at the same seeds. For the API."""
        fields = (subject, strength, second, second_strength, prompt, negative_prompt, count, seed, random_seed)
        wanted = request_of(*fields, steps, guidance, size, sampler)
        with self.sessions.generating(request.session_hash) as cancel:
            result = self.generator.generate(wanted, compare, step_progress(progress), cancel)
        seeds = ", ".join(str(image.parameters["seed"]) for image in result.images)
        return image_list(result.images), image_list(result.base_images), seeds, "\n".join(result.notes)

    def load_settings(self, file: str) -> tuple[Any, ...]:
        """The form with the settings of an uploaded image."""
        return self.filled(read_parameters(Path(file)))

    def filled(self, parameters: dict) -> tuple[Any, ...]:
        """The form with the settings of an image."""
        fields = fields_of(parameters)
        subject = self._subject_of(fields[0])
        if fields[0] != NO_SUBJECT and subject is None:
            raise VectorFitError(f"{fields[0]}: this subject is not here any more; the other settings need it")
        return *fields, {"trigger": subject.trigger if subject else "", "base": subject.base if subject else ""}

    def opened(self, key: str, link: str) -> tuple[Any, ...]:
        """The page as this browser left it: key, form, newest results. A link's settings come before the last ones."""
        key = key or self.gallery.new_key()
        running = self.drawings.running(key)  # the gallery has it once its first picture is done
        newest: Drawing | None = running.drawing if running else next(iter(self.gallery.all(key)), None)
        parameters = cards.settings_of_link(link) if link else {}
        if not parameters and newest is not None:
            parameters = newest.parameters | {"seed": newest.seeds[0]}
        try:
            form = self.filled(parameters)
        except VectorFitError:
            first = next((subject.name for subject in self.library.all()), NO_SUBJECT)
            form = (first, *(gr.skip(),) * (len(self.form) - 1))
        return key, *form, cards.results(newest, running)
