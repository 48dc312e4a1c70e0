"""Likeness, prompt and class between the rows that need no subject, worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.balance import Embedded, Frame, share


def angles(*degrees):
    """Unit vectors of the plane."""
    radians = torch.tensor([math.radians(angle) for angle in degrees], dtype=torch.float64)
    return torch.stack([radians.cos(), radians.sin()], 1)


def cosine(degrees):
    return math.cos(math.radians(degrees))


# Photos at 0 and 20 degrees, the base's pictures at 90, their texts at 90; class pictures of the base 40 degrees apart.
BASE = Embedded(dino=angles(90, 90), cls=angles(100, 140), clip=angles(90, 90))
FRAME = Frame(angles(0, 20), angles(0, 20), BASE, texts=angles(90, 90))


def test_the_base_has_no_likeness_and_keeps_prompt_and_class():
    scores = FRAME.scores(BASE)
    assert (scores.likeness, scores.prompt, scores.cls) == (0.0, pytest.approx(1), pytest.approx(1))
    assert scores.drift == pytest.approx(0)
    assert scores.balance == 0


def test_a_picture_that_is_a_photo_has_likeness_and_ignores_the_prompt():
    drawn = Embedded(dino=angles(0, 20), cls=BASE.cls, clip=angles(0, 20))
    scores = FRAME.scores(drawn)
    assert scores.likeness == 1  # with itself each photo is more alike than with the other: cut off at 1
    assert scores.prompt == pytest.approx(0, abs=1e-9)
    assert scores.balance == pytest.approx(0, abs=1e-9)


def test_the_shares_in_between_are_those_of_the_formula():
    drawn = Embedded(dino=angles(45, 45), cls=angles(110, 150), clip=angles(45, 45))
    scores = FRAME.scores(drawn)
    between = (cosine(45) + cosine(25)) / 2
    zero = (cosine(90) + cosine(70)) / 2
    likeness = (between - zero) / (cosine(20) - zero)
    prompt = (cosine(45) - zero) / (1 - zero)
    drift, unlike = (1 - cosine(10)) / 2, (1 - cosine(40)) / 2
    assert (scores.dino, scores.clip_i, scores.clip_t) == pytest.approx((between, between, cosine(45)))
    assert scores.drift == pytest.approx(drift)
    assert (scores.likeness, scores.prompt, scores.cls) == pytest.approx((likeness, prompt, 1 - drift / unlike))
    assert scores.balance == pytest.approx(3 / (1 / likeness + 1 / prompt + 1 / (1 - drift / unlike)))


def test_what_cannot_be_told_does_not_count():
    # The base's pictures are as near to the photos as these are to each other: no likeness can be told.
    near = Embedded(dino=angles(10, 10), cls=BASE.cls, clip=angles(10, 10))
    scores = Frame(angles(0, 20), angles(0, 20), near, texts=angles(10, 10)).scores(near)
    assert scores.likeness is None
    assert scores.balance == pytest.approx(2 / (1 / scores.prompt + 1 / scores.cls))
    one_photo = Frame(angles(0), angles(0), BASE, angles(90, 90)).scores(BASE)
    assert one_photo.likeness == pytest.approx(0, abs=1e-9)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_a_share_is_cut_off_and_turns_round_with_its_ends(value, zero, one):
    found = share(value, zero, one)
    if abs(one - zero) < 1e-6:
        assert found is None
        return
    assert 0 <= found <= 1
    assert share(zero, zero, one) == 0
    assert share(one, zero, one) == pytest.approx(1)
    assert found == pytest.approx(1 - share(value, one, zero), abs=1e-6)
