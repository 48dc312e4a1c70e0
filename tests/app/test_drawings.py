"""A drawing goes on without its page, and keeps what is done."""

import threading
from dataclasses import replace

import pytest

from app import cards
from app.drawings import MOST_OF_ADDRESS, Drawings
from app.gallery import Gallery
from app.generation import Cancelled, GenerationRequest, Generator
from app.subjects import Library
from tests.app.stand_ins import FakeEngine
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve

REQUEST = GenerationRequest((("rex", 1.0),), "a photo of sks dog", seed=7, count=3, steps=5)


class GatedEngine(FakeEngine):
    """Waits before every order but the first until the gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def generate(self, order, told, preview=None):
        if self.orders:
            self.gate.wait(30)
        return super().generate(order, told, preview)


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
        drawings.start(key, GenerationRequest((), ""), compare=True)
    assert drawings.gallery.all(key) == []
    assert drawings.running(key) is None


def test_drawings_come_in_turn_and_each_is_told_its_place(drawings):
    keys = [drawings.gallery.new_key() for _ in range(4)]
    drawings.generator.engine.orders.append(None)  # waits at the gate from the first one on
    unlike = [replace(REQUEST, steps=5 + n) for n in range(4)]  # those that are alike are drawn together
    first, *others = [drawings.start(key, one, compare=False) for key, one in zip(keys, unlike, strict=True)]
    assert [progress.ahead for progress in others] == [1, 2, 3]
    drawings.cancel(keys[1])
    assert isinstance(others[0].error, Cancelled)  # at once: it had not begun
    assert [progress.ahead for progress in others[1:]] == [1, 2]
    drawings.generator.engine.gate.set()
    for progress in (first, *others):
        assert progress.finished.wait(30)
    assert [len(drawings.gallery.all(key)) for key in keys] == [1, 0, 1, 1]
    assert others[-1].ahead == 0


def test_drawings_that_are_alike_are_drawn_together(drawings):
    keys = [drawings.gallery.new_key() for _ in range(4)]
    engine = drawings.generator.engine
    engine.orders.append(None)
    requests = [REQUEST, replace(REQUEST, steps=9), REQUEST, replace(REQUEST, seed=90, prompt="in the snow")]
    first, *others = [drawings.start(key, one, compare=False) for key, one in zip(keys, requests, strict=True)]
    while not first.begun:
        first.finished.wait(0.01)
    drawings.cancel(keys[2])
    engine.gate.set()
    for progress in (first, *others):
        assert progress.finished.wait(30)
    assert [type(progress.error) for progress in (first, *others)] == [type(None), type(None), Cancelled, type(None)]
    assert [len(drawings.gallery.all(key)) for key in keys] == [1, 1, 0, 1]
    assert drawings.generator.alike(requests[0], requests[3])
    assert not drawings.generator.alike(requests[0], requests[1])


def test_one_address_cannot_fill_the_queue_of_drawings(drawings):
    drawings.generator.engine.orders.append(None)
    mine = [drawings.start(drawings.gallery.new_key(), REQUEST, False, "1.2.3.4") for _ in range(MOST_OF_ADDRESS)]
    with pytest.raises(VectorFitError, match="the queue is full"):
        drawings.start(drawings.gallery.new_key(), REQUEST, False, "1.2.3.4")
    theirs = drawings.start(drawings.gallery.new_key(), REQUEST, False, "5.6.7.8")
    drawings.generator.engine.gate.set()
    assert all(progress.finished.wait(60) for progress in (*mine, theirs))


def test_the_page_shows_a_rough_picture_until_the_true_one_is_there(drawings):
    progress = drawings.start(drawings.gallery.new_key(), REQUEST, compare=True)
    while not progress.drawing.base_images:
        progress.finished.wait(0.01)
    assert set(progress.sketches) >= {(7, True)}
    shown = cards.results(progress.drawing, progress)
    assert shown.count("being drawn") + shown.count("data-full") == len(progress.sketches)
    drawings.generator.engine.gate.set()
    assert progress.finished.wait(30)
    assert "being drawn" not in cards.results(progress.drawing)
