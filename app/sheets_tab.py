"""The Sheets tab: a sweep of strengths, and a table of prompts x subjects, each as one image."""

from typing import Any

import gradio as gr

from .components import NO_SUBJECT, OFTEN, ON_DEVICE, PRIVATE, step_progress, subject_choices
from .generation import GenerationRequest, GenerationResult, Generator, strengths_between
from .handlers import number, shows_errors, whole_number
from .sessions import Sessions

NO_SHEET = (
    '<div class="nothing"><b>Your sheet appears here</b><p>A sheet is one picture that compares: a subject at several '
    "strengths, or several prompts with several subjects. It carries its settings.</p></div>"
)


class SheetsTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator, sessions: Sessions) -> None:
        self.generator, self.sessions = generator, sessions
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed")
                with gr.Tabs():
                    with gr.Tab("Strengths"):
                        self._sweep()
                    with gr.Tab("Prompts × subjects"):
                        self._table()
                self.cancel = gr.Button("Cancel", visible=False)
            with gr.Column(scale=3, min_width=320):
                self._result()
        self._wire()

    def _sweep(self) -> None:
        gr.Markdown("One subject, from the base alone to more than it was trained.")
        self.subject = gr.Dropdown(label="Subject", value=NO_SUBJECT, choices=[NO_SUBJECT], allow_custom_value=True)
        self.prompt = gr.Textbox(label="Prompt", placeholder="a photo of your subject in the snow")
        with gr.Row():
            self.low = gr.Slider(0, 2, 0, step=0.05, label="From strength", min_width=140)
            self.high = gr.Slider(0, 2, 1.5, step=0.05, label="To strength", min_width=140)
        with gr.Row():
            self.columns = gr.Slider(2, 9, 7, step=1, label="Columns", min_width=140)
            self.count = gr.Slider(1, 4, 2, step=1, label="Rows, a seed each", min_width=140)
        self.sweep = gr.Button("Generate the sweep", variant="primary")

    def _table(self) -> None:
        gr.Markdown("Every prompt with every subject, at one seed.")
        self.subjects = gr.Dropdown(label="Subjects", choices=[], multiselect=True, allow_custom_value=True)
        self.prompts = gr.Textbox(
            "a photo of {}\n{} in the snow\n{} on the beach",
            lines=4,
            label="Prompts, one per line",
            info="{} stands for the words that call each subject",
        )
        self.table = gr.Button("Generate the table", variant="primary")

    def _result(self) -> None:
        self.sheet = gr.Image(
            label="Sheet",
            show_label=False,
            type="filepath",
            format="png",
            interactive=False,
            elem_id="sheet",
            buttons=["download", "fullscreen"],
        )
        self.empty = gr.HTML(NO_SHEET, elem_id="no-sheet")  # theme.css hides it beside a sheet
        self.note = gr.Textbox(label="Note", visible=False)

    def _wire(self) -> None:
        outputs = [self.sheet, self.note]
        options = {"show_progress_on": [self.sheet, self.empty], **ON_DEVICE}
        self.subject.input(self.fill_in, [self.subject, self.prompt], self.prompt, **PRIVATE)
        sweep_inputs = [self.subject, self.prompt, self.seed, self.count, self.low, self.high, self.columns]
        sweep = self.sweep.click(shows_errors(self.generate_sweep), sweep_inputs, outputs, api_name="sweep", **options)
        table_inputs = [self.subjects, self.prompts, self.seed]
        table = self.table.click(shows_errors(self.generate_table), table_inputs, outputs, api_name="table", **options)
        gr.on([self.sweep.click, self.table.click], lambda: gr.update(visible=True), None, self.cancel, **OFTEN)
        for event in (sweep, table):
            event.then(lambda: gr.update(visible=False), None, self.cancel, **PRIVATE)
        self.cancel.click(self.cancel_generation, None, self.cancel, cancels=[sweep, table], **PRIVATE)

    @property
    def lists(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.subject, self.subjects]

    def refreshed(self) -> tuple[Any, ...]:
        subjects = subject_choices(self.generator.library)
        return gr.update(choices=[NO_SUBJECT, *subjects]), gr.update(choices=subjects)

    def first(self, name: str, prompt: str) -> tuple[Any, Any]:
        """A subject and a prompt to begin with when the tab is opened."""
        first = next(iter(self.generator.library.names()), NO_SUBJECT) if name == NO_SUBJECT else name
        return first, self.fill_in(first, prompt)

    def fill_in(self, name: str, prompt: str) -> Any:
        """A prompt for the chosen subject, if the field is empty."""
        subjects = {subject.name: subject for subject in self.generator.library.all()}
        return gr.skip() if prompt or name not in subjects else f"a photo of {subjects[name].trigger}"

    def _request(self, name: str, prompt: str, seed: float, count: int) -> GenerationRequest:
        sampling = self.generator.sampling(name or None)
        return GenerationRequest(
            ((name, 1.0),) if name else (),
            prompt or "",
            seed=whole_number(seed, "seed"),
            count=whole_number(count, "seeds"),
            steps=sampling.num_inference_steps,
            guidance=sampling.guidance_scale,
            size=sampling.resolution,
        )

    def generate_sweep(
        self,
        subject: str,
        prompt: str,
        seed: float,
        count: int,
        low: float,
        high: float,
        columns: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for this default
    ) -> tuple[str, str]:
        """One subject at several strengths."""
        wanted = self._request("" if subject in (None, NO_SUBJECT) else subject, prompt, seed, count)
        strengths = strengths_between(number(low, "from"), number(high, "to"), whole_number(columns, "columns"))
        with self.sessions.generating(request.session_hash) as cancel:
            return _sheet(self.generator.strength_sweep(wanted, strengths, step_progress(progress), cancel))

    def generate_table(
        self,
        subjects: list[str],
        prompts: str,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Every prompt with every subject."""
        lines = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
        wanted = self._request("", "", seed, 1)
        with self.sessions.generating(request.session_hash) as cancel:
            return _sheet(self.generator.prompt_table(wanted, subjects or [], lines, step_progress(progress), cancel))

    def cancel_generation(self, request: gr.Request) -> Any:
        """Cancels this session's generation."""
        self.sessions.cancel(request.session_hash)
        gr.Info("Cancelled.")
        return gr.update(visible=False)


def _sheet(result: GenerationResult) -> tuple[str, str]:
    for note in result.notes:
        gr.Warning(note)
    return str(result.images[0].path), "\n".join(result.notes)
