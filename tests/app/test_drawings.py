"""A drawing goes on without its page, and keeps what is done."""

import threading

import pytest

from app.drawings import Drawings
from app.gallery import Gallery
from app.generation import Cancelled, Generator, ImageRequest
from app.subjects import Library
from tests.app.stand_ins import FakeEngine
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve

REQUEST = ImageRequest((("rex", 1.0),), "a photo of sks dog", seed=7, count=3, steps=5)


class GatedEngine(FakeEngine):
    """Waits before every order but the first until the gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def generate(self, order, told):
        if self.orders:
            self.gate.wait(30)
        return super().generate(order, told)


@pytest.fixture
def drawings(root, tmp_path):
    return Drawings(Generator(Library(root), GatedEngine(), resolve("starter"), tmp_path / "scratch"), Gallery(root))


def test_a_drawing_is_completed_and_kept_without_anyone_watching(drawings):
    key = drawings.gallery.new_key()
    progress = drawings.start(key, REQUEST, compare=True)
    assert drawings.running(key) is progress
    with pytest.raises(VectorFitError, match="still in progress"):
        drawings.start(key, REQUEST, compare=True)
    drawings.generator.engine.gate.set()
    assert progress.finished.wait(30)
    assert progress.error is None
    assert drawings.running(key) is None
    (kept,) = drawings.gallery.all(key)
    assert set(kept.images) == set(kept.base_images) == {7, 8, 9}
    assert kept.parameters["prompt"] == REQUEST.prompt


def test_cancelling_keeps_what_is_drawn_and_leaves_no_empty_drawing(drawings):
    key = drawings.gallery.new_key()
    progress = drawings.start(key, REQUEST, compare=True)
    while not progress.drawing.base_images:
        progress.finished.wait(0.01)
    drawings.cancel(key)
    drawings.generator.engine.gate.set()
    assert progress.finished.wait(30)
    assert isinstance(progress.error, Cancelled)
    (kept,) = drawings.gallery.all(key)
    assert kept.base_images
    assert not kept.images
    drawings.generator.engine.gate.clear()
    other = drawings.gallery.new_key()
    progress = drawings.start(other, REQUEST, compare=False)
    drawings.cancel(other)
    drawings.generator.engine.gate.set()
    assert progress.finished.wait(30)
    assert drawings.gallery.all(other) == []


def test_a_request_out_of_range_begins_nothing(drawings):
    key = drawings.gallery.new_key()
    with pytest.raises(VectorFitError, match="prompt: empty"):
        drawings.start(key, ImageRequest((), ""), compare=True)
    assert drawings.gallery.all(key) == []
    assert drawings.running(key) is None
