"""The Inspect tab: what a subject's file and run folder record, and the subject as a download."""

from typing import Any

import gradio as gr

from .components import ON_DEVICE, PRIVATE, subject_choices
from .generation import Generator
from .handlers import shows_errors
from .subject_details import EXPORTS, facts, scores, settings, write_export, write_figures


class InspectTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.library = generator, generator.library
        with gr.Row():
            self.subject = gr.Dropdown(label="Subject", choices=[], value=None, allow_custom_value=True, scale=3)
            self.kind = gr.Dropdown(list(EXPORTS), value=EXPORTS[0], label="Download as", scale=2)
            self.make = gr.Button("Prepare the download", scale=1)
        self.file = gr.File(label="Download", interactive=False, visible=False)
        with gr.Row():
            with gr.Column(min_width=320):
                self.facts = gr.Dataframe(headers=["about", "value"], label="Subject", interactive=False, wrap=True)
                self.scores = gr.Dataframe(
                    headers=["score", "mean", "interval", "protocol"], label="Scores", interactive=False, visible=False
                )
                with gr.Accordion("Settings of the training", open=False):
                    self.settings = gr.Dataframe(headers=["setting", "value"], interactive=False, show_label=False)
            with gr.Column(min_width=320):
                options = {
                    "format": "png",
                    "interactive": False,
                    "type": "filepath",
                    "show_label": False,
                    "visible": False,
                    "buttons": ["download", "fullscreen"],
                }
                titles = ("Loss", "Training strength", "Frozen vectors")
                self.figures = {title: gr.Image(label=title, **options) for title in titles}
        details = [self.facts, self.scores, self.settings, *self.figures.values(), self.file]
        self.subject.change(shows_errors(self.show), self.subject, details, **{**PRIVATE, "show_progress": "minimal"})
        self.make.click(
            shows_errors(self.export), [self.subject, self.kind], self.file, api_visibility="private", **ON_DEVICE
        )

    @property
    def lists(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.subject]

    def refreshed(self) -> tuple[Any, ...]:
        return (gr.update(choices=subject_choices(self.library)),)

    def show(self, name: str | None) -> tuple[Any, ...]:
        """Everything that is recorded of a subject."""
        if not name:
            return (gr.skip(),) * (4 + len(self.figures))
        subject = self.library.find(name)
        files = write_figures(subject, self.generator.new_folder())
        figures = [gr.update(value=files.get(title), visible=title in files) for title in self.figures]
        score_rows = scores(subject)
        return (
            facts(subject),
            gr.update(value=score_rows, visible=bool(score_rows)),
            settings(subject),
            *figures,
            gr.update(value=None, visible=False),
        )

    def export(self, name: str | None, kind: str) -> Any:
        """The subject as a file of one of `EXPORTS`."""
        if kind != EXPORTS[0]:
            self.generator.engine.release()  # the export loads its own base, and both may not fit
        file = write_export(self.library, self.library.find(name or ""), kind, self.generator.new_folder())
        return gr.update(value=str(file), visible=True)
