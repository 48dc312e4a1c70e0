"""The tab for many pictures at once: a sweep of strengths, and prompts x subjects, each as one picture."""

from typing import Any

import gradio as gr

from .drawing import Outcome, Studio, Wish, strengths_between
from .forms import number, telling, whole
from .generate_tab import DEVICE, NONE, PRIVATE, choices, show_progress
from .sessions import Sessions


class SheetsTab:
    """The tab's components and what they do."""

    def __init__(self, studio: Studio, sessions: Sessions) -> None:
        self.studio, self.sessions = studio, sessions
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._form()
            with gr.Column(scale=3, min_width=320):
                self.sheet = gr.Image(
                    label="Sheet",
                    show_label=False,
                    type="filepath",
                    format="png",
                    interactive=False,
                    elem_id="sheet",
                    buttons=["download", "fullscreen"],
                )
                self.note = gr.Textbox(label="Note", interactive=False)
        self._wire()

    def _form(self) -> None:
        with gr.Row():
            self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed")
            self.count = gr.Slider(1, 4, 2, step=1, label="Seeds of a sweep")
        with gr.Group():
            gr.Markdown("### Sweep of strengths", padding=True)
            self.subject = gr.Dropdown(label="Subject", value=NONE, choices=[NONE], allow_custom_value=True)
            self.prompt = gr.Textbox(label="Prompt", placeholder="a photo of sks dog in the snow")
            with gr.Row():
                self.low = gr.Slider(0, 2, 0, step=0.05, label="From strength")
                self.high = gr.Slider(0, 2, 1.5, step=0.05, label="to strength")
                self.columns = gr.Slider(2, 9, 7, step=1, label="in so many columns")
            self.sweep = gr.Button("Draw the sweep", variant="primary")
        with gr.Group():
            gr.Markdown("### Prompts × subjects", padding=True)
            self.subjects = gr.Dropdown(label="Subjects", choices=[], multiselect=True, allow_custom_value=True)
            self.prompts = gr.Textbox(
                "a photo of {}\n{} in the snow\n{} on the beach",
                lines=4,
                label="Prompts, one a line",
                info="{} stands for each subject's own words",
            )
            self.table = gr.Button("Draw the table", variant="primary")
        self.cancel = gr.Button("Cancel", variant="stop")

    def _wire(self) -> None:
        outputs, shown = [self.sheet, self.note], {"show_progress_on": [self.sheet], "api_visibility": "private"}
        self.subject.input(self.choose, [self.subject, self.prompt], self.prompt, **PRIVATE)
        swept = [self.subject, self.prompt, self.seed, self.count, self.low, self.high, self.columns]
        sweep = self.sweep.click(telling(self.draw_sweep), swept, outputs, **shown, **DEVICE)
        tabled = [self.subjects, self.prompts, self.seed]
        table = self.table.click(telling(self.draw_table), tabled, outputs, **shown, **DEVICE)
        self.cancel.click(self.stop, None, self.note, cancels=[sweep, table], **PRIVATE)

    @property
    def lists(self) -> list[Any]:
        """What `refreshed` fills."""
        return [self.subject, self.subjects]

    def refreshed(self) -> tuple[Any, ...]:
        found = choices(self.studio.library)
        return gr.update(choices=[NONE, *found]), gr.update(choices=found)

    def choose(self, name: str, prompt: str) -> Any:
        """A prompt for the subject, where there is none."""
        known = {subject.name: subject for subject in self.studio.library.all()}
        return gr.skip() if prompt or name not in known else f"a photo of {known[name].trigger}"

    def _wish(self, name: str, prompt: str, seed: float, count: int) -> Wish:
        sampling = self.studio.sampling(name or None)
        return Wish(
            ((name, 1.0),) if name else (),
            prompt or "",
            seed=whole(seed, "seed"),
            count=whole(count, "seeds"),
            steps=sampling.num_inference_steps,
            guidance=sampling.guidance_scale,
            size=sampling.resolution,
        )

    def draw_sweep(
        self,
        subject: str,
        prompt: str,
        seed: float,
        count: int,
        low: float,
        high: float,
        columns: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio is told of it
    ) -> tuple[str, str]:
        """One subject at several strengths."""
        wish = self._wish("" if subject in (None, NONE) else subject, prompt, seed, count)
        strengths = strengths_between(number(low, "from"), number(high, "to"), whole(columns, "columns"))
        with self.sessions.drawing(request.session_hash) as stop:
            return _shown(self.studio.sweep(wish, strengths, show_progress(progress), stop))

    def draw_table(
        self,
        subjects: list[str],
        prompts: str,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Every prompt with every subject."""
        lines = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
        wish = self._wish("", "", seed, 1)
        with self.sessions.drawing(request.session_hash) as stop:
            return _shown(self.studio.table(wish, subjects or [], lines, show_progress(progress), stop))

    def stop(self, request: gr.Request) -> str:
        """Ends what this session is drawing."""
        self.sessions.stop(request.session_hash)
        return "Cancelled."


def _shown(outcome: Outcome) -> tuple[str, str]:
    return str(outcome.own[0].path), "\n".join(outcome.notes)
