"""What is asked for is checked, drawn in the right order, and written with what it was made from."""

import threading
from dataclasses import replace

import pytest
from PIL import Image

from app.drawing import BLANKED, MOST_PICTURES, Stopped, Studio, Wish, strengths_between
from app.subjects import Library
from tests.app.stand_ins import FakeEngine
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import read_parameters

WISH = Wish((("rex", 1.0),), "a photo of sks dog", seed=7, count=3, steps=5)


@pytest.fixture
def studio(root, tmp_path):
    return Studio(Library(root), FakeEngine(), resolve("starter"), tmp_path / "scratch")


def ignore(done, total, what):
    pass


def test_base_and_subject_are_drawn_at_the_same_seeds(studio):
    told = []
    outcome = studio.draw(WISH, True, lambda *step: told.append(step), threading.Event())
    plain, own = studio.engine.orders
    assert (plain.subjects, own.subjects) == ((), ((studio.library.find("rex").path, 1.0),))
    assert plain.seeds == own.seeds == (7, 8, 9)
    assert plain.prompts == own.prompts == ("a photo of sks dog",) * 3
    assert [step[:2] for step in told] == [(n, 20) for n in (*range(11), *range(10, 21))]  # two batches each
    assert [picture.parameters["seed"] for picture in outcome.own] == [7, 8, 9]
    assert Image.open(outcome.own[1].path).getpixel((0, 0)) == (100, 8, 0)
    assert Image.open(outcome.base[1].path).getpixel((0, 0)) == (0, 8, 0)
    assert read_parameters(outcome.own[1].path) == outcome.own[1].parameters
    assert outcome.own[1].parameters["subjects"] == [{"name": "rex", "strength": 1.0}]
    assert outcome.base[1].parameters["subjects"] == []
    assert outcome.notes == []


def test_without_a_subject_the_base_alone_is_drawn(studio):
    outcome = studio.draw(replace(WISH, subjects=()), True, ignore, threading.Event())
    assert len(studio.engine.orders) == 1
    assert outcome.base == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": MOST_PICTURES + 1}, "count: got 17"),
        ({"count": 0}, "count"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"size": 100}, "multiple of 64"),
        ({"size": 10**6}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"prompt": "a" * 2001}, "characters of the prompt"),
        ({"prompt": "  "}, "prompt: empty"),
        ({"subjects": (("rex", 3.0),)}, "strength of rex"),
        ({"subjects": (("rex", 1.0), ("rex", 1.0))}, "choose another"),
        ({"subjects": (("../rex", 1.0),)}, "no subject is called"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(studio, changes, message):
    with pytest.raises(VectorFitError, match=message):
        studio.draw(replace(WISH, **changes), True, ignore, threading.Event())
    assert studio.engine.orders == []


def test_stopping_ends_the_drawing_after_its_step(studio):
    stop, steps = threading.Event(), []

    def progress(done, total, what):
        steps.append(done)
        if done == 3:
            stop.set()

    with pytest.raises(Stopped):
        studio.draw(WISH, True, progress, stop)
    assert steps == [0, 1, 2, 3]


def test_blanked_pictures_are_told_of(root, tmp_path):
    studio = Studio(Library(root), FakeEngine(blanked=True), resolve("starter"), tmp_path / "scratch")
    assert studio.draw(WISH, False, ignore, threading.Event()).notes == [BLANKED.format(3, 3)]


def test_a_sweep_and_a_table_are_one_picture_each(studio):
    strengths = strengths_between(0, 2, 5)
    assert strengths == [0, 0.5, 1, 1.5, 2]
    (sweep,) = studio.sweep(replace(WISH, count=2), strengths, ignore, threading.Event()).own
    assert [order.subjects[0][1] for order in studio.engine.orders] == strengths
    sheet = Image.open(sweep.path)
    step = 128 + 4
    reds = [sheet.getpixel((4 + column * step + 64, 100))[0] for column in range(5)]
    assert reds == [0, 50, 100, 150, 200]
    assert read_parameters(sweep.path)["columns"] == ["0", "0.5", "1", "1.5", "2"]
    studio.engine.orders.clear()
    (table,) = studio.table(WISH, ["rex"], ["a photo of {}", "{} on the beach"], ignore, threading.Event()).own
    assert [order.prompts for order in studio.engine.orders] == [("a photo of sks dog",), ("sks dog on the beach",)]
    assert Image.open(table.path).width == 128 + 8


@pytest.mark.parametrize("asked", [(1, 0, 5), (0, 3, 5), (0, 1, 1), (0, 1, 99)])
def test_ranges_of_strengths_are_checked(asked):
    with pytest.raises(VectorFitError, match="strengths"):
        strengths_between(*asked)


def test_a_sheet_has_a_limit(studio):
    with pytest.raises(VectorFitError, match="at most 64"):
        studio.table(WISH, ["rex"], ["a"] * 65, ignore, threading.Event())
    with pytest.raises(VectorFitError, match="at least one of each"):
        studio.table(WISH, [], ["a"], ignore, threading.Event())
