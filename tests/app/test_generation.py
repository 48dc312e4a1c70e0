"""Requests are checked and generated in order, and images carry their settings."""

import threading
from dataclasses import replace

import pytest
from PIL import Image

from app.generation import BLANKED, MAX_IMAGES, Cancelled, GenerationRequest, Generator, strengths_between
from app.subjects import Library
from tests.app.stand_ins import FakeEngine
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import read_parameters

REQUEST = GenerationRequest((("rex", 1.0),), "a photo of sks dog", seed=7, count=3, steps=5)


@pytest.fixture
def generator(root, tmp_path):
    return Generator(Library(root), FakeEngine(), resolve("starter"), tmp_path / "scratch")


def ignore(done, total, what):
    pass


def test_base_and_subject_have_the_same_seeds(generator):
    steps = []
    result = generator.generate(REQUEST, True, lambda *step: steps.append(step), threading.Event())
    orders, subject = generator.engine.orders, ((generator.library.find("rex").path, 1.0),)
    half = len(orders) // 2  # the base's parts come first, then the same parts of the subject
    assert [order.subjects for order in orders] == [()] * half + [subject] * half
    for part in (orders[:half], orders[half:]):
        assert [seed for order in part for seed in order.seeds] == [7, 8, 9]
        assert {prompt for order in part for prompt in order.prompts} == {"a photo of sks dog"}
    done = [step[0] for step in steps]
    assert done == sorted(done)
    assert {step[1] for step in steps} == {sum(order.steps for order in orders)} == {done[-1]}
    whole = sum(order.steps for order in orders[:half])  # drawing in parts costs no step more
    assert whole == replace(orders[0], seeds=(7, 8, 9), prompts=("a",) * 3).steps
    assert [image.parameters["seed"] for image in result.images] == [7, 8, 9]
    assert Image.open(result.images[1].path).getpixel((0, 0)) == (100, 8, 0)
    assert Image.open(result.base_images[1].path).getpixel((0, 0)) == (0, 8, 0)
    assert read_parameters(result.images[1].path) == result.images[1].parameters
    assert result.images[1].parameters["subjects"] == [{"name": "rex", "strength": 1.0}]
    assert result.base_images[1].parameters["subjects"] == []
    assert result.notes == []


def test_without_a_subject_only_the_base_is_generated(generator):
    result = generator.generate(replace(REQUEST, subjects=()), True, ignore, threading.Event())
    assert {order.subjects for order in generator.engine.orders} == {()}
    assert result.base_images == []


def test_every_image_is_shown_as_soon_as_it_is_drawn(generator):
    seen = []

    def drawn(image, base):
        assert image.path.exists()
        seen.append((image.parameters["seed"], base, len(generator.engine.orders)))

    generator.generate(REQUEST, True, ignore, threading.Event(), drawn)
    assert [(seed, base) for seed, base, _ in seen] == [(s, base) for base in (True, False) for s in (7, 8, 9)]
    assert seen[0][2] == 1  # before the next part was begun


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": MAX_IMAGES + 1}, "count: got 17"),
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
def test_invalid_requests_are_refused_before_the_engine_runs(generator, changes, message):
    with pytest.raises(VectorFitError, match=message):
        generator.generate(replace(REQUEST, **changes), True, ignore, threading.Event())
    assert generator.engine.orders == []


def test_cancelling_ends_the_generation_after_its_step(generator):
    cancel, steps = threading.Event(), []

    def progress(done, total, what):
        steps.append(done)
        if done == 3:
            cancel.set()

    with pytest.raises(Cancelled):
        generator.generate(REQUEST, True, progress, cancel)
    assert steps == [0, 1, 2, 3]


def test_blanked_images_are_noted(root, tmp_path):
    generator = Generator(Library(root), FakeEngine(blanked=True), resolve("starter"), tmp_path / "scratch")
    assert generator.generate(REQUEST, False, ignore, threading.Event()).notes == [BLANKED.format(3, 3)]


def test_a_sweep_and_a_table_are_one_image_each(generator):
    strengths = strengths_between(0, 2, 5)
    assert strengths == [0, 0.5, 1, 1.5, 2]
    (sweep,) = generator.strength_sweep(replace(REQUEST, count=2), strengths, ignore, threading.Event()).images
    assert [order.subjects[0][1] for order in generator.engine.orders] == strengths
    sheet = Image.open(sweep.path)
    step = 128 + 4
    reds = [sheet.getpixel((4 + column * step + 64, 100))[0] for column in range(5)]
    assert reds == [0, 50, 100, 150, 200]
    carried = read_parameters(sweep.path)
    assert carried["columns"] == ["0", "0.5", "1", "1.5", "2"]
    assert (carried["prompt"], carried["subjects"], carried["strength"]) == ("a photo of sks dog", "rex", strengths)
    assert (carried["num_inference_steps"], carried["sampler"]) == (5, REQUEST.sampler)
    generator.engine.orders.clear()
    (table,) = generator.prompt_table(
        REQUEST, ["rex"], ["a photo of {}", "{} on the beach"], ignore, threading.Event()
    ).images
    assert [order.prompts for order in generator.engine.orders] == [("a photo of sks dog",), ("sks dog on the beach",)]
    assert Image.open(table.path).width == 128 + 8


@pytest.mark.parametrize("limits", [(1, 0, 5), (0, 3, 5), (0, 1, 1), (0, 1, 99)])
def test_ranges_of_strengths_are_checked(limits):
    with pytest.raises(VectorFitError, match="strengths"):
        strengths_between(*limits)


def test_a_sheet_has_a_limit(generator):
    with pytest.raises(VectorFitError, match="at most 64"):
        generator.prompt_table(REQUEST, ["rex"], ["a"] * 65, ignore, threading.Event())
    with pytest.raises(VectorFitError, match="at least one of each"):
        generator.prompt_table(REQUEST, [], ["a"], ignore, threading.Event())
