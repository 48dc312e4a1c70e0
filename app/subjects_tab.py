"""The Subjects tab: what is known of a subject; export, rename, delete it, keep notes."""

import html
from typing import Any

import gradio as gr

from vectorfit import VectorFitError

from . import cards, subject_care
from .components import ON_DEVICE, PRIVATE, subject_choices
from .generation import Generator
from .handlers import shows_errors
from .jobs import Jobs
from .subject_details import EXPORTS, facts, figures, scores, settings, summary, write_export
from .subject_tiles import SubjectPictures
from .subjects import EXAMPLES

NO_SUBJECTS = (
    '<div class="nothing"><b>No subject yet</b><p>Train one from a few photos, or add a subject file in Generate.</p>'
    "</div>"
)
ASK_DELETE = "(name) => { if (!confirm('Delete this subject with its photos?')) throw 'kept'; return name; }"


class SubjectsTab:
    """The tab's components and their event handlers."""

    def __init__(self, generator: Generator, jobs: Jobs) -> None:
        self.generator, self.library, self.jobs = generator, generator.library, jobs
        self.pictures = SubjectPictures(generator.library)
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.subject = gr.Dropdown(
                    label="Subject", choices=[], value=None, elem_id="looked-at", allow_custom_value=True
                )
                self.card = gr.HTML(NO_SUBJECTS, elem_id="subject-card")
                self.use = gr.Button("Generate with it", variant="primary", elem_id="use-subject")
            with gr.Column(scale=2, min_width=300):
                self._care()
        with gr.Accordion("How it was trained", open=False):
            self._recorded()
        self._wire()

    def _care(self) -> None:
        self.notes = gr.Textbox("", label="Notes", lines=3, placeholder="What works with it, what does not")
        self.keep = gr.Button("Save the notes", elem_id="keep-notes", size="md")
        with gr.Row(elem_classes="beside"):
            self.kind = gr.Dropdown(list(EXPORTS), value=EXPORTS[0], label="Export as", min_width=150, scale=3)
            self.make = gr.Button("Export", min_width=90, elem_id="export", size="md")
        self.file = gr.File(label="Download", interactive=False, visible=False, elem_id="exported")
        with gr.Row(elem_classes="beside", visible=False) as self.naming:
            self.new_name = gr.Textbox("", label="New name", min_width=150, scale=3)
            self.rename = gr.Button("Rename", min_width=90, elem_id="rename", size="md")
        self.delete = gr.Button("Delete", variant="stop", elem_id="delete-subject", size="md", visible=False)

    def _recorded(self) -> None:
        self.scores = gr.Dataframe(
            headers=["score", "mean", "interval", "the photos", "the base", "protocol"],
            label="Scores",
            interactive=False,
            visible=False,
        )
        self.plots = gr.HTML("", elem_id="plots")
        with gr.Row():
            self.facts = gr.Dataframe(
                headers=["about", "value"], label="Its file", interactive=False, wrap=True, min_width=300
            )
            self.settings = gr.Dataframe(
                headers=["setting", "value"], label="Settings", interactive=False, wrap=True, min_width=300
            )

    def _wire(self) -> None:
        details = [
            *(self.card, self.facts, self.scores, self.settings, self.plots, self.file, self.notes, self.new_name),
            *(self.naming, self.delete),
        ]
        self.subject.change(shows_errors(self.show), self.subject, details, **PRIVATE)
        chosen = [self.subject, self.kind]
        self.make.click(
            shows_errors(self.export),
            chosen,
            self.file,
            api_name="export",
            show_progress_on=[self.make],
            **ON_DEVICE,
        )
        quick = {"concurrency_limit": None, "show_progress": "hidden"}
        self.rename.click(
            shows_errors(self.rename_subject), [self.subject, self.new_name], self.subject, api_name="rename", **quick
        )
        self.keep.click(shows_errors(self.keep_notes), [self.subject, self.notes], None, api_name="keep_notes", **quick)
        self.delete.click(
            shows_errors(self.delete_subject), self.subject, self.subject, js=ASK_DELETE, api_name="delete", **quick
        )

    @property
    def lists(self) -> list[Any]:
        """The components that `refreshed` fills."""
        return [self.subject]

    def refreshed(self) -> tuple[Any, ...]:
        return (gr.update(choices=subject_choices(self.library)),)

    def first(self, name: str | None) -> Any:
        """A subject to look at when the tab is opened."""
        names = self.library.names()
        return gr.skip() if name in names else next(iter(names), None)

    def show(self, name: str | None) -> tuple[Any, ...]:
        """Everything that is recorded of a subject."""
        if not name or name not in self.library.names():
            return (gr.skip(),) * 10
        subject = self.library.find(name)
        origin, _, own_name = subject.name.rpartition("/")
        score_rows, photos = scores(subject), self.pictures.photos(subject)
        lines = summary(subject, len(self.library.photos(subject)))
        return (
            cards.subject_card(subject, photos, lines, origin == EXAMPLES),
            facts(subject),
            gr.update(value=score_rows, visible=bool(score_rows)),
            settings(subject),
            cards.plots(figures(subject)),
            gr.update(value=None, visible=False),
            subject_care.note_of(self.library, name),
            own_name,
            *(gr.update(visible=origin != EXAMPLES),) * 2,
        )

    def export(self, subject: str, kind: str = EXPORTS[0]) -> Any:
        """The subject as a file of one of the kinds."""
        if not subject:
            raise VectorFitError("no subject is chosen; choose one")
        if kind != EXPORTS[0]:
            self.generator.engine.release()  # the export loads its own base, and both may not fit
        file = write_export(self.library, self.library.find(subject), kind, self.generator.new_folder())
        return gr.update(value=str(file), visible=True)

    def rename_subject(self, subject: str, name: str) -> Any:
        """Gives the subject another name."""
        renamed = subject_care.rename(self.library, self.jobs, subject or "", name)
        gr.Info(f"It is called {html.escape(renamed)} now.")
        return gr.update(choices=subject_choices(self.library), value=renamed)

    def keep_notes(self, subject: str, text: str) -> None:
        """Keeps notes on the subject."""
        subject_care.write_note(self.library, subject or "", text or "")
        gr.Info("The notes are saved.")

    def delete_subject(self, subject: str) -> Any:
        """Removes the subject with its training and photos."""
        subject_care.delete(self.library, self.jobs, subject or "")
        gr.Info("The subject is deleted.")
        return gr.update(choices=subject_choices(self.library), value=next(iter(self.library.names()), None))
