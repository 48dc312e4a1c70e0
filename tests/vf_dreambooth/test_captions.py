"""Captions: placeholders, shuffles, dropout, and the prompts of the sample grids."""

import pytest
import torch
from PIL import Image

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.captions import SHUFFLES, Captions, filled, shuffled
from vf_dreambooth.config import TrainConfig
from vf_training.runs import RunFolder


def config(**settings) -> TrainConfig:
    given = {"instance_data_dir": "dog", "class_noun": "dog", "instance_prompt": "a photo of sks dog"}
    return TrainConfig(**given | {"class_prompt": "a photo of a dog"} | settings)


def test_placeholders_stand_for_the_subjects_words():
    assert filled("{token} {class}, a {class} in {x y}", config(token="zwx")) == "zwx dog, a dog in {x y}"
    with pytest.raises(vf.VectorFitError, match=r"unknown placeholder {tokn}; did you mean {token}\?"):
        filled("a {tokn}", config())
    with pytest.raises(vf.VectorFitError, match=r"{class} has no word; give --class_noun"):
        filled("a {class}", config(class_noun=None))


def test_shuffles_keep_the_first_part_and_lose_none():
    orders = shuffled("sks dog, red, on grass, at night", 0, 1)
    assert len(orders) == SHUFFLES
    assert len(set(orders)) > 2
    assert all(order.startswith("sks dog, ") for order in orders)
    assert {frozenset(order.split(", ")) for order in orders} == {frozenset(("sks dog", "red", "on grass", "at night"))}
    assert shuffled("sks dog, red, on grass, at night", 0, 1) == orders
    assert set(shuffled("sks dog, red", 0, 1)) == {"sks dog, red"}


def drawn(captions: Captions, steps: int, batch: int = 4) -> list[list[str]]:
    """The prompts of `batch` samples of photo 0 and as many class images, at every step."""
    picture, is_class = torch.zeros(2 * batch, dtype=torch.long), torch.arange(2 * batch) >= batch
    rows = [captions.index(picture, is_class, step, 0).tolist() for step in range(1, steps + 1)]
    return [[captions.prompts[index] for index in row] for row in rows]


def test_dropout_empties_the_given_share_of_the_photos_prompts_alone():
    rows = drawn(Captions(config(caption_dropout=0.3), [None], with_class=True), 200)
    photos, classes = [p for row in rows for p in row[:4]], {p for row in rows for p in row[4:]}
    assert set(photos) == {"", "a photo of sks dog"}
    assert photos.count("") / len(photos) == pytest.approx(0.3, abs=0.05)
    assert classes == {"a photo of a dog"}
    assert drawn(Captions(config(caption_dropout=1.0), [None], with_class=False), 1)[0][:4] == [""] * 4


def test_a_samples_prompt_depends_on_its_place_alone():
    captions = Captions(config(caption_dropout=0.4, shuffle_captions=True), ["sks dog, a, b, c", None], with_class=True)
    whole = captions.index(torch.tensor([0] * 8), torch.tensor([False] * 8), 5, 0)
    parts = [captions.index(torch.tensor([0] * 4), torch.tensor([False] * 4), 5, first) for first in (0, 4)]
    assert torch.equal(torch.cat(parts), whole)
    assert len({*whole.tolist()}) > 2


def test_shuffled_captions_are_all_trained():
    captions = Captions(config(shuffle_captions=True), ["sks dog, a, b, c"], with_class=True)
    seen = {prompt for row in drawn(captions, 30) for prompt in row[:4]}
    assert seen == set(shuffled("sks dog, a, b, c", 0, 0))


def test_the_grid_has_a_row_per_prompt_of_the_file(arguments, tmp_path):
    (tmp_path / "prompts.txt").write_text("# scenes\n{token} {class} on a hill\n\na {class}\n")
    flags = ("--num_validation_images", 1, "--max_train_steps", 1, "--validation_prompts", tmp_path / "prompts.txt")
    main(arguments(tmp_path / "two", *flags, "--shuffle_captions"))
    main(arguments(tmp_path / "three", *flags, "--validation_prompt", "one more {class}"))
    heights = [Image.open(RunFolder(tmp_path / name).sample_grid(0)).height for name in ("two", "three")]
    assert heights[1] > heights[0] * 1.3
    settings = RunFolder(tmp_path / "three").read_config()["settings"]
    assert settings["validation_prompt"] == "one more dog"


def test_wrong_placeholders_and_files_are_all_named_at_once(arguments, photos, tmp_path):
    (photos / "0.txt").write_text("a {tokn} dog")
    (photos / "1.txt").write_text("a {klass}")
    (tmp_path / "prompts.txt").write_text("# nothing but this\n")
    flags = ("--validation_prompts", tmp_path / "prompts.txt", "--instance_prompt", "my {thing}")
    with pytest.raises(vf.VectorFitError) as caught:
        main(arguments(tmp_path / "run", *flags, "--num_validation_images", 1))
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for line, words in zip(lines, ("0.txt", "1.txt", "--instance_prompt", "--validation_prompts"), strict=True):
        assert words in line
    assert not (tmp_path / "run").exists()
