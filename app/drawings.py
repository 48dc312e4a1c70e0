"""Drawings in progress. Each has its own thread, so that it is completed when its page is reloaded or closed."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from vectorfit import VectorFitError

from .gallery import Drawing, Gallery
from .generation import Generator, ImageRequest, SavedImage, parameters_of

MOST = 20  # drawings in progress, with those whose page was left


@dataclass
class Progress:
    """How far a drawing is. `error` says why it ended early."""

    drawing: Drawing
    done: int = 0
    total: int = 1
    what: str = ""
    error: Exception | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


class Drawings:
    """The newest drawing of every browser, and how far it is."""

    def __init__(self, generator: Generator, gallery: Gallery) -> None:
        self.generator, self.gallery = generator, gallery
        self._running: dict[str, Progress] = {}

    def start(self, key: str, request: ImageRequest, compare: bool) -> Progress:
        """Begins to draw.

        Raises:
            VectorFitError: the request is out of range, its subject is missing, or this browser draws already.
        """
        if key in self._running or len(self._running) >= MOST:
            raise VectorFitError("a drawing is still in progress; cancel it, or wait until it is done")
        base = self.generator.check(request)
        seeds = range(request.seed, request.seed + request.count)
        parameters = parameters_of(request, base)
        progress = Progress(self.gallery.new(key, parameters, seeds, compare and bool(request.subjects)))
        self._running[key] = progress
        threading.Thread(target=self._draw, args=(key, progress, request, compare), daemon=True).start()
        return progress

    def running(self, key: str) -> Progress | None:
        """The drawing of a browser that is not finished."""
        return self._running.get(key)

    def cancel(self, key: str) -> None:
        """Ends a browser's drawing after the current step; what is drawn stays."""
        if progress := self._running.get(key):
            progress.cancel.set()

    def _draw(self, key: str, progress: Progress, request: ImageRequest, compare: bool) -> None:
        drawing = progress.drawing

        def after_step(done: int, total: int, what: str) -> None:
            progress.done, progress.total, progress.what = done, total, what

        def keep(image: SavedImage, base: bool) -> None:
            self.gallery.keep(drawing, image, base)

        try:
            result = self.generator.generate(request, compare, after_step, progress.cancel, keep)
            self.gallery.note(drawing, result.notes)
        except Exception as error:  # the page shows it
            progress.error = error
        finally:
            if not drawing.images and not drawing.base_images:
                _remove(drawing.folder)
            if self._running.get(key) is progress:
                del self._running[key]
            progress.finished.set()


def _remove(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink(missing_ok=True)
    folder.rmdir()
