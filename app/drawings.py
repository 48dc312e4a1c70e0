"""Drawings in progress. A thread of the server draws them, so that they outlive a reload and the end of their page."""

import shutil
import threading
from dataclasses import dataclass, field

from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.engine import MOST_TOGETHER

from .gallery import Drawing, Gallery
from .generation import Cancelled, GenerationRequest, Generator, SavedImage, parameters_of

MOST, MOST_OF_ADDRESS = 30, 20  # drawings in progress: of all, of one address


@dataclass
class Progress:
    """How far a drawing is. `error` says why it ended early."""

    drawing: Drawing
    address: str = ""
    ahead: int = 0  # drawings before it in the queue
    begun: bool = False
    done: int = 0
    total: int = 1
    what: str = ""
    sketches: dict[tuple[int, bool], Image.Image] = field(default_factory=dict)  # by seed, and whether it is the base's
    error: Exception | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


Waiting = tuple[str, Progress, GenerationRequest, bool]  # a browser's key, its drawing, and what to draw


class Drawings:
    """The newest drawing of every browser, and how far it is.

    They are drawn in the order they came, and those that are alike together: the engine draws them in one batch.
    """

    def __init__(self, generator: Generator, gallery: Gallery) -> None:
        self.generator, self.gallery = generator, gallery
        self._running: dict[str, Progress] = {}  # in the order they came
        self._queue: list[Waiting] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def start(self, key: str, request: GenerationRequest, compare: bool, address: str = "") -> Progress:
        """Begins to draw, or waits in the queue. `address` is the client's.

        Raises:
            VectorFitError: the request is out of range, its subject is missing, this browser draws already, or too much
                waits.
        """
        if key in self._running:
            raise VectorFitError("a drawing is still in progress; cancel it, or wait until it is done")
        near = sum(progress.address == address for progress in self._running.values())
        if len(self._running) >= MOST or near >= MOST_OF_ADDRESS:
            raise VectorFitError(f"the queue is full: {len(self._running)} drawings wait; try again soon")
        base = self.generator.check(request)
        seeds = range(request.seed, request.seed + request.count)
        parameters, compare = parameters_of(request, base), compare and bool(request.subjects)
        drawing = self.gallery.new(key, parameters, seeds, compare)
        progress = Progress(drawing, address, len(self._running))
        self._running[key] = progress
        with self._arrived:
            self._queue.append((key, progress, request, compare))
            self._arrived.notify()
        return progress

    def running(self, key: str) -> Progress | None:
        """The drawing of a browser that is not finished."""
        return self._running.get(key)

    def cancel(self, key: str) -> None:
        """Ends a browser's drawing after the current step, or takes it out of the queue; what is drawn stays."""
        if progress := self._running.get(key):
            progress.cancel.set()
            if not progress.begun:
                progress.error = Cancelled()
                self._finish(key, progress)

    def _work(self) -> None:
        while True:
            threads = [threading.Thread(target=self._draw, args=waiting, daemon=True) for waiting in self._next()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _next(self) -> list[Waiting]:
        """The first of the queue and those that can be drawn with it, taken from the queue."""
        with self._arrived:
            while not (waiting := [one for one in self._queue if not one[1].finished.is_set()]):
                self._queue.clear()  # they were cancelled
                self._arrived.wait()
            first, *others = waiting
            taken = [first, *(one for one in others if self.generator.alike(first[2], one[2]))][:MOST_TOGETHER]
            for _, progress, *_ in taken:
                progress.begun = True
            self._queue = [one for one in waiting if not one[1].begun]
        self._recount()
        return taken

    def _draw(self, key: str, progress: Progress, request: GenerationRequest, compare: bool) -> None:
        if progress.finished.is_set():  # it was cancelled in the queue
            return
        drawing = progress.drawing

        def after_step(done: int, total: int, what: str) -> None:
            progress.done, progress.total, progress.what = done, total, what

        def keep(image: SavedImage, base: bool) -> None:
            self.gallery.keep(drawing, image, base)

        def sketch(seed: int, base: bool, image: Image.Image) -> None:
            progress.sketches[seed, base and compare] = image

        try:
            result = self.generator.generate(request, compare, after_step, progress.cancel, keep, sketch)
            self.gallery.note(drawing, result.notes)
        except Exception as error:  # the page shows it
            progress.error = error
        finally:
            self._finish(key, progress)

    def _finish(self, key: str, progress: Progress) -> None:
        """Lets the others move up."""
        drawing = progress.drawing
        if not drawing.images and not drawing.base_images:
            shutil.rmtree(drawing.folder, ignore_errors=True)
        self._running.pop(key, None)
        progress.finished.set()
        self._recount()

    def _recount(self) -> None:
        """Tells each drawing how many are before it; none is before one that is begun."""
        for ahead, other in enumerate(list(self._running.values())):
            other.ahead = 0 if other.begun else ahead
