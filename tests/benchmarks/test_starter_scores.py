"""What the judge recognises of an evaluation's pictures, and by what settings are chosen."""

from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import starter_scores
from benchmarks.dreambooth_trials import KEPT, merit
from benchmarks.starter_scores import means_of, recognised
from eval.collection import Subject
from eval.manifest import Entry

SNOW, BEACH = "in the snow", "on the beach"


def entry(role, prompt):
    return Entry("", "rex", "dog", role, 1, "", prompt, prompt, 0, "")


def test_shares_of_noun_and_ground_are_of_the_pictures_that_were_asked_for_them(monkeypatch, tmp_path):
    wanted = [
        (("subject", f"a sks dog {SNOW}"), ("dog", SNOW)),
        (("subject", f"a sks dog {BEACH}"), ("cat", SNOW)),
        (("subject", "a red sks dog"), ("dog", BEACH)),  # asks for no ground
        (("class", f"a dog {SNOW}"), ("dog", SNOW)),
        (("base_class", f"a dog {SNOW}"), ("wolf", SNOW)),
    ]
    answers = {index: seen for index, (_, seen) in enumerate(wanted)} | {5: ("dog", SNOW), 6: ("fox", SNOW)}
    for index in answers:
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / f"{index}.png")

    def look(_, images):
        seen = [answers[image.getpixel((0, 0))[0]] for image in images]
        return SimpleNamespace(classes=[noun for noun, _ in seen], backgrounds=[ground for _, ground in seen])

    monkeypatch.setattr(starter_scores.judge, "look", look)
    pictures = [(tmp_path / f"{index}.png", entry(*asked)) for index, (asked, _) in enumerate(wanted)]
    found = recognised(None, Subject("rex", [tmp_path / "5.png", tmp_path / "6.png"], pictures))
    assert found == {
        "noun": pytest.approx(2 / 3),
        "ground": 0.5,
        "class": 1,
        "base noun": 0,
        "base ground": 1,
        "photos noun": 0.5,
    }
    assert means_of({"rex": found, "other": {**found, "noun": 0}})["noun"] == pytest.approx(1 / 3)


def test_likeness_counts_among_settings_that_keep_ground_and_class():
    def trial(dino, ground, cls):
        return {"dino": dino, "ground": ground, "class": cls}

    kept, liker, lost = trial(0.4, 1, KEPT), trial(0.5, KEPT, 1), trial(0.9, 1, KEPT - 0.01)
    assert sorted((lost, liker, kept), key=merit) == [lost, kept, liker]
    assert max((lost, trial(0.1, 0.9, 0.9)), key=merit) == lost  # where none keeps them, what keeps them best


def test_a_scorers_pictures_fill_its_batches():
    assert len(starter_scores.BACKGROUNDS) % starter_scores.AT_ONCE == 0
