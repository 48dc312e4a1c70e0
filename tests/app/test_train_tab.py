"""The Train tab's own words: what will call a subject, how long a training takes, captions that do not fit."""

import gradio as gr
import pytest

from app import train_tab
from app.generation import Generator
from app.jobs import Job, Jobs
from app.subjects import Library
from app.train_tab import PRESETS, TrainTab, check_captions
from tests.app.stand_ins import FakeEngine
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve


@pytest.fixture
def tab(root, tmp_path):
    with gr.Blocks():
        return TrainTab(Generator(Library(root), FakeEngine(), resolve("starter"), tmp_path / "scratch"), Jobs(root))


def test_it_says_what_will_call_the_subject_and_what_answers_to_that_already(tab):
    assert tab.call("", "sks") == ""
    assert "<b>sks cat</b> will call it" in tab.call("cat", "sks")
    assert "answers to that too" not in tab.call("cat", "sks")
    assert "rex answers to that too" in tab.call("dog", "")
    assert "<i>" not in tab.call("<i>", "sks")


def test_presets_tell_their_steps_and_after_a_training_their_time(tab, root):
    steps = {name: tab.steps_of(name) for name in PRESETS}
    assert steps["Quick"] < steps["Balanced"] < steps["Thorough"]
    assert [label for label, _ in tab.presets()["choices"]] == [f"{name} · {steps[name]} steps" for name in PRESETS]
    Jobs(root)._write(Job("rex", [], 0.0, waiting=False))  # its config.json: two steps in 1.5 seconds
    labels = [label for label, _ in tab.presets()["choices"]]
    assert labels[1].startswith("Balanced · about ")
    assert all("steps" not in label for label in labels)


def test_captions_with_unknown_words_in_braces_are_refused(monkeypatch):
    warned = []
    monkeypatch.setattr(train_tab.gr, "Warning", warned.append)
    check_captions(["", "a photo of {token} {class}", "sks dog at sea"], "sks")
    assert warned == []
    check_captions(["a dog at sea"], "sks")
    assert warned == ["1 captions do not say sks, the word that will call the subject."]
    with pytest.raises(VectorFitError, match=r"unknown placeholder \{tokn\}"):
        check_captions(["{tokn} dog"], "sks")
