"""The rows of the sample grids."""

import re

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.pipeline import GenerationSettings
from vf_dreambooth.previews import MOST, Preview, parsed, previews

USUAL = GenerationSettings(25, 4.0, 64, 2)


def config(**settings) -> TrainConfig:
    given = {"instance_data_dir": "dog", "class_noun": "dog", "instance_prompt": "a photo of sks dog"}
    return TrainConfig(**given | {"class_prompt": "a photo of a dog"} | settings)


def test_a_prompt_may_have_settings_of_its_own():
    row = parsed("a dog -- on grass --n blurred, dark --d 7 --l 2.5 --s 9")
    assert row == Preview("a dog -- on grass", "blurred, dark", 7, 2.5, 9)
    assert row.settings(USUAL) == GenerationSettings(9, 2.5, 64, 2, "blurred, dark")
    assert parsed("a dog").settings(USUAL) == USUAL


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a dog --w 64", "unknown option --w; expected --n, --d, --l, --s"),
        ("a dog --d x", "--d got 'x', expected a number"),
        ("a dog --s 0", "--s got 0, expected at least 1"),
        ("a dog --d -1", "--d got -1, expected at least 0"),
        ("a dog --l nan", "--l got nan, expected at least 0"),
    ],
)
def test_wrong_settings_are_refused(line, why):
    with pytest.raises(VectorFitError, match=re.escape(why)):
        parsed(line)


def test_the_usual_rows_and_those_of_a_file(tmp_path):
    usual = previews(config())
    assert [row.prompt for row in usual][::3] == ["a photo of sks dog", "a photo of a dog"]
    assert len(usual) == 4
    (tmp_path / "rows.txt").write_text("{token} {class} on a hill --d 3\n# a comment\na {class}\n")
    found = previews(config(validation_prompts=str(tmp_path / "rows.txt"), validation_prompt="one more"))
    assert found == [Preview("sks dog on a hill", seed=3), Preview("a dog"), Preview("one more")]


@pytest.mark.parametrize(
    ("content", "why"), [("# nothing\n", "no words in it"), ("a dog\n" * (MOST + 1), "at most 64")]
)
def test_files_that_are_none(tmp_path, content, why):
    (tmp_path / "rows.txt").write_text(content)
    with pytest.raises(VectorFitError, match=f"--validation_prompts: .*{why}"):
        previews(config(validation_prompts=str(tmp_path / "rows.txt")))
