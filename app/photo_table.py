"""The photos of a training: dropped, shown once with what is wrong with each, cut, captioned, removed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from vectorfit import VectorFitError
from vf_dreambooth.photos import SUFFIXES

from .cards import ACTIONS
from .components import PRIVATE, uploads_only
from .handlers import shows_errors
from .jobs import MAX_PHOTOS, MIN_PHOTOS
from .photo_check import UNREADABLE, check_photos
from .photo_edits import PhotoEdit, edits_of
from .training_cards import photo_cards


@dataclass(frozen=True)
class Checked:
    """Photos that may be trained on, with what the person changed on them."""

    paths: list[Path]
    edits: list[PhotoEdit]
    noun: str  # that the names of the files give


class PhotoTable:
    """The components. The page keeps squares and captions itself and hands them over with `COLLECT`."""

    # Replaces the last value of an event by what stands in the cards.
    COLLECT = "(...values) => [...values.slice(0, -1), window.vectorfitPhotos()]"

    def __init__(self, resolution: int) -> None:
        self.resolution = resolution
        label = f"{MIN_PHOTOS} to {MAX_PHOTOS} photos of one thing"
        self.photos = uploads_only(
            gr.File(label=label, file_count="multiple", file_types=sorted(SUFFIXES), height=120, elem_id="drop")
        )
        self.cards = gr.HTML("", js_on_load=ACTIONS, elem_id="photos")
        self.shown = gr.State([])  # the photos whose cards are on the page
        self.edits = gr.JSON([], label="Edits", visible=False)

    def wire(self, noun: gr.Textbox) -> None:
        """Shows the photos as soon as they change; their names may give the noun."""
        self.photos.change(
            shows_errors(self.show),
            [self.photos, noun, self.shown, self.edits],
            [self.cards, noun, self.shown],
            js=self.COLLECT,
            **{**PRIVATE, "show_progress": "minimal"},
        )
        self.cards.click(shows_errors(self.without), self.photos, self.photos, **PRIVATE)

    def show(self, files: list[str] | None, noun: str, shown: list[str], edits: Any) -> tuple[Any, ...]:
        """The photos with their check, and a guess of their class noun. What was changed on a photo stays with it."""
        if not files:
            return "", gr.skip(), []
        files = files[: 2 * MAX_PHOTOS]
        # Cards of a moment ago may be missing, if the photos changed twice.
        kept = dict(zip(shown, edits if isinstance(edits, list) else [], strict=False))
        checked = check_photos([Path(file) for file in files], self.resolution)
        if not MIN_PHOTOS <= len(files) <= MAX_PHOTOS:
            gr.Warning(f"{len(files)} photos; expected {MIN_PHOTOS} to {MAX_PHOTOS}")
        of_each = edits_of([kept.get(file) or {} for file in files], [Path(file).name for file in files])
        return photo_cards(checked, of_each), noun or checked.noun, files

    def without(self, files: list[str] | None, event: gr.EventData) -> list[str]:
        """The photos without one."""
        return [file for number, file in enumerate(files or []) if str(number) != event.of]

    def checked(self, photos: Sequence[str] | None, edits: Any) -> Checked:
        """Photos and edits that a training may use.

        Raises:
            VectorFitError: there are too few or too many, one cannot be used, or an edit does not suit its photo.
        """
        paths = [Path(file) for file in photos or []]
        if not MIN_PHOTOS <= len(paths) <= MAX_PHOTOS:
            raise VectorFitError(f"{len(paths)} photos; expected {MIN_PHOTOS} to {MAX_PHOTOS} of one thing")
        found = check_photos(paths, self.resolution)
        if found.unreadable:
            reasons = "\n".join(f"{name}: {note}" for name, pixels, note in found.rows if pixels == UNREADABLE)
            raise VectorFitError(f"{found.unreadable} of {len(paths)} photos cannot be used; remove them:\n{reasons}")
        return Checked(paths, edits_of(edits, [path.name for path in paths]), found.noun)
