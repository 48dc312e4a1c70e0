"""The Gallery tab: everything this browser drew, with its settings, to reuse, download or delete."""

from typing import Any

import gradio as gr

from . import cards
from .cards import ACTIONS, PICTURES
from .gallery import Gallery
from .picture_files import EVERYTHING

REUSE, DELETE = "reuse", "delete"


class GalleryTab:
    """The tab's components; its events are in page.py, for they fill Generate's form too."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.all = gr.HTML("", elem_id="download-all")
        self.drawings = gr.HTML("", js_on_load=ACTIONS, elem_id="gallery")

    @property
    def components(self) -> list[Any]:
        """The components that `shown` fills."""
        return [self.all, self.drawings]

    def shown(self, key: str) -> tuple[str, str]:
        """The whole gallery of a browser."""
        drawings = self.gallery.all(key)
        link = f'<a class="act" href="{PICTURES}/{key}/{EVERYTHING}.zip" download>Download all</a>' if drawings else ""
        return f'<div class="bar">{link}</div>', cards.gallery(drawings)
