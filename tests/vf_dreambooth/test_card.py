"""The model card of a run."""

import re

import pytest
from huggingface_hub import ModelCard

import vectorfit as vf
from train_dreambooth_vectorfit import main


@pytest.fixture
def finished(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--num_validation_images", 1))
    return tmp_path / "run"


def test_the_card_says_what_is_needed_and_no_place_of_this_machine(finished, tmp_path, tiny_base):
    card = ModelCard.load(finished / "README.md")
    assert card.data.instance_prompt == "a photo of sks dog"
    assert {"text-to-image", "dreambooth", "vectorfit"} <= set(card.data.tags)
    assert "**sks dog**" in card.text
    assert "| `learning_rate` | 0.01 |" in card.text
    assert str(tmp_path) not in card.content
    for link in re.findall(r"!\[.*?\]\((.*?)\)", card.text):
        assert (finished / link).is_file()


def test_the_cards_three_lines_run(finished, tiny_base, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (finished / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(finished)
    scope: dict = {}
    exec(code.replace(f'"{tiny_base.name}"', repr(str(tiny_base))), scope)
    moved = vf.vector_parameters({"unet": scope["pipe"].unet, "text_encoder": scope["pipe"].text_encoder})
    assert any(vector.abs().sum() > 0 for vector in moved.values())
