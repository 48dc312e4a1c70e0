"""The tab that tells of a subject what its file and its run folder know, and gives it away."""

from typing import Any

import gradio as gr

from .drawing import Studio
from .forms import telling
from .generate_tab import DEVICE, PRIVATE, choices
from .inspecting import EXPORTS, facts, scores, settings, write_export, write_figures


class InspectTab:
    """The tab's components and what they do."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.library = studio, studio.library
        with gr.Row():
            self.subject = gr.Dropdown(label="Subject", choices=[], value=None, allow_custom_value=True, scale=3)
            self.what = gr.Dropdown(list(EXPORTS), value=EXPORTS[0], label="Download as", scale=2)
            self.make = gr.Button("Prepare the download", scale=1)
        self.file = gr.File(label="Download", interactive=False, visible=False)
        with gr.Row():
            with gr.Column(min_width=320):
                self.facts = gr.Dataframe(headers=["about", "value"], label="Subject", interactive=False, wrap=True)
                self.scores = gr.Dataframe(
                    headers=["score", "mean", "95 %", "protocol"], label="Scores", interactive=False, visible=False
                )
                with gr.Accordion("Settings of the training", open=False):
                    self.settings = gr.Dataframe(headers=["setting", "value"], interactive=False, show_label=False)
            with gr.Column(min_width=320):
                names, kept = ("Loss", "Training strength", "Frozen vectors"), {"format": "png", "interactive": False}
                kept |= {
                    "type": "filepath",
                    "show_label": False,
                    "visible": False,
                    "buttons": ["download", "fullscreen"],
                }
                self.figures = {name: gr.Image(label=name, **kept) for name in names}
        told = [self.facts, self.scores, self.settings, *self.figures.values(), self.file]
        self.subject.change(telling(self.show), self.subject, told, **{**PRIVATE, "show_progress": "minimal"})
        self.make.click(telling(self.export), [self.subject, self.what], self.file, api_visibility="private", **DEVICE)

    @property
    def lists(self) -> list[Any]:
        """What `refreshed` fills."""
        return [self.subject]

    def refreshed(self) -> tuple[Any, ...]:
        return (gr.update(choices=choices(self.library)),)

    def show(self, name: str | None) -> tuple[Any, ...]:
        """Everything there is to know of a subject."""
        if not name:
            return (gr.skip(),) * (4 + len(self.figures))
        subject = self.library.find(name)
        found = write_figures(subject, self.studio.folder())
        figures = [gr.update(value=found.get(title), visible=title in found) for title in self.figures]
        told = scores(subject)
        return (
            facts(subject),
            gr.update(value=told, visible=bool(told)),
            settings(subject),
            *figures,
            gr.update(value=None, visible=False),
        )

    def export(self, name: str | None, what: str) -> Any:
        """The subject as a file."""
        if what != EXPORTS[0]:
            self.studio.engine.release()  # an export loads a base of its own
        file = write_export(self.library, self.library.find(name or ""), what, self.studio.folder())
        return gr.update(value=file, visible=True)
