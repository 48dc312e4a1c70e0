import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from starter import drawings, encoders, judge, measure, tokenizer, world
from starter.drawings import Drawing
from starter.subjects import EXAMPLES, SUBJECTS, TUNING_SUBJECTS, photographs
from starter.train_unet import settle_words

KNOWN = {cls: [d for d in drawings.held_out() if d.noun == cls] for cls in world.CLASSES}


def test_the_world_is_as_large_as_promised():
    assert len(world.CLASSES) >= 200
    assert all(KNOWN.values())
    assert len(drawings.held_out()) >= 300
    assert len(world.BACKGROUNDS) >= 16
    assert len(world.COLORS) >= 8


def test_a_division_leaves_every_noun_drawings_and_takes_a_whole_style_of_every_fifth():
    listed = [
        Drawing(noun, style, name) for noun in world.CLASSES for style in drawings.ICON_SETS for name in ("a", "b")
    ]
    kept, held_out = drawings.divide(listed)
    assert sorted(kept + held_out) == sorted(listed)
    assert not set(kept) & set(held_out)
    for index, noun in enumerate(world.CLASSES):
        mine = [drawing for drawing in held_out if drawing.noun == noun]
        assert len(mine) == 2
        if index % drawings.STYLE_HELD_OUT_EVERY == 0:
            assert len({drawing.style for drawing in mine}) == 1
    assert drawings.divide(listed) == (kept, held_out)


def test_an_alias_is_the_drawing_it_stands_for():
    icons = {"icons": {"dog": {}, "poodle": {}}, "aliases": {"dog-face": {"parent": "dog"}}}
    assert drawings.listed({"noto": icons}) == [Drawing("dog", "noto", "dog"), Drawing("dog", "noto", "poodle")]


def test_a_scene_is_a_function_of_its_seed():
    scene = world.Scene(world.Thing(KNOWN["dog"][0], "red"), "on the beach")
    first, second, other = (np.asarray(world.draw(scene, np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert first.shape == (world.SIZE, world.SIZE, 3)
    assert (first == second).all()
    assert (first != other).any()


def test_two_things_stand_side_by_side():
    cat, bottle = (world.Thing(KNOWN[cls][0]) for cls in ("cat", "bottle"))
    alone = world.Scene(cat, "on top of a white rug")
    both = dataclasses.replace(alone, beside=bottle)
    assert world.caption(both, np.random.default_rng(0)).count(world.NEXT_TO) == 1
    plain = np.asarray(world.ground(alone.background, np.random.default_rng(1)), int)
    changed = np.abs(np.asarray(world.draw(both, np.random.default_rng(1)), int) - plain).sum(-1) > 40
    half = world.SIZE // 2
    assert changed[:, :half].any()
    assert changed[:, half:].any()


def test_captions_say_what_a_thing_is_like():
    thing = world.Thing(KNOWN["owl"][0], "orange", "striped")
    assert thing.described() == "striped orange owl"
    assert world.described(world.Thing(KNOWN["owl"][0], "orange")) == "an orange owl"
    rng = np.random.default_rng(0)
    forms = {world.caption(world.Scene(thing, "in the snow"), rng) for _ in range(200)}
    assert {"a striped orange owl in the snow", "a photo of a striped orange owl"} <= forms


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_every_ground_can_be_drawn_and_looks_like_itself(background):
    pictures = [np.asarray(world.ground(background, np.random.default_rng(seed)), float) for seed in range(3)]
    assert all(picture.shape == (world.SIZE, world.SIZE, 3) for picture in pictures)
    means = np.stack([picture.mean((0, 1)) for picture in pictures])
    assert np.ptp(means, axis=0).max() < 60


def test_subjects_are_new_to_the_model():
    for subject in (*SUBJECTS.values(), *TUNING_SUBJECTS.values()):
        assert subject.cls in world.CLASSES
        assert subject.drawing in drawings.held_out()
    assert len(SUBJECTS) >= 12
    assert not SUBJECTS.keys() & TUNING_SUBJECTS.keys()
    assert len({bytes(photo.tobytes()) for photo in photographs("dog", SUBJECTS["dog"])}) == 5


def test_the_examples_are_the_subjects_photographs():
    assert {path.name for path in EXAMPLES.iterdir()} - {"trained"} == set(SUBJECTS)
    notice = (EXAMPLES.parent / "starter" / "NOTICE").read_text()
    for name, subject in SUBJECTS.items():
        assert re.search(rf"\[.*\b{name}\b.*\]", notice), f"{name} is not in NOTICE"
        for index, image in enumerate(photographs(name, subject)):
            kept = Image.open(EXAMPLES / name / f"{index:02d}.png")
            assert kept.size == (world.SIZE, world.SIZE)
            # Resampling may differ by a shade between Pillow versions.
            assert np.abs(np.asarray(kept, int) - np.asarray(image, int)).mean() < 2


def test_recolouring_and_patterns_keep_the_outline():
    picture = drawings.picture(KNOWN["vase"][0])
    for changed in (
        world.recolor(picture, world.COLORS["blue"]),
        *(world.pattern(picture, kind, world.COLORS["red"]) for kind in world.PATTERNS),
    ):
        assert changed.getchannel("A").tobytes() == picture.getchannel("A").tobytes()
        assert changed.tobytes() != picture.tobytes()
    with pytest.raises(ValueError, match="'zigzag'"):
        world.pattern(picture, "zigzag", (0, 0, 0))


def test_known_words_are_one_token_and_any_text_tokenises():
    vocabulary = tokenizer.build()
    for word in set(tokenizer.corpus()):
        assert len(vocabulary.tokenize(word)) == 1, word
    for text in ("sks", "xylophone", "Größe 犬 🐕", "", "a" * 500, "a-b_c!?"):
        assert vocabulary.unk_token_id not in vocabulary(text).input_ids[1:-1]


def test_sks_is_in_no_caption():
    rng = np.random.default_rng(0)
    captions = {word for _ in range(3000) for word in world.caption(world.sample_scene(rng, KNOWN), rng).split()}
    assert "sks" not in captions
    assert {word.lower() for word in captions} <= set(tokenizer.corpus())


def test_words_never_spoken_get_a_meaning_among_the_names():
    words, names = 6, 40
    table = nn.Embedding(words + names, 8)
    with torch.no_grad():
        table.weight[words:] = torch.randn(names, 2) @ torch.randn(2, 8) + 3  # a plane, away from the origin
    before = table.weight.detach().clone()
    weight = settle_words(table, torch.tensor([0, 1, 2, 41]), words)
    assert weight.shape == (words, 8)
    assert torch.equal(weight[:3], before[:3])
    assert torch.equal(table.weight, before)
    plane = before[words:] - before[words:].mean(0)
    away = weight[3:] - before[words:].mean(0)
    rebuilt = torch.linalg.lstsq(plane.T, away.T).solution
    torch.testing.assert_close(plane.T @ rebuilt, away.T, atol=1e-4, rtol=0)


def test_what_is_asked_for_is_spread_evenly():
    pairs = [measure.asked(index) for index in range(measure.COUNT)]
    assert {cls for cls, _ in pairs} == set(world.CLASSES)
    grounds = [ground for _, ground in pairs]
    counts = [grounds.count(ground) for ground in world.BACKGROUNDS]
    assert max(counts) - min(counts) <= 6
    assert len(set(pairs)) > 0.95 * measure.COUNT


def test_the_judge_and_the_encoders_take_halved_scenes_and_fit_the_promised_size():
    critic = judge.Judge([str(drawing) for drawing in drawings.held_out()] * 7).eval()
    models = [critic, encoders.build_clip(), encoders.build_dino()]
    assert sum(p.numel() for model in models for p in model.parameters()) * 2 <= 12_000_000
    scene = world.draw(world.Scene(world.Thing(KNOWN["cat"][0]), "in the snow"), np.random.default_rng(0))
    pixels = encoders.as_input(torch.from_numpy(np.array(scene)).permute(2, 0, 1)[None])
    assert pixels.shape == (1, 3, encoders.SIDE, encoders.SIDE)
    assert pixels.abs().max() <= 1
    classes, grounds, _, embedded = critic(pixels)
    assert classes.shape == (1, len(world.CLASSES))
    assert grounds.shape == (1, len(world.BACKGROUNDS))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(1))


def test_augmentations_depend_on_their_generator_alone_and_keep_the_shape():
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    for augmented in (encoders.softened, encoders.jittered, encoders.off_color):
        first, second = (augmented(images, torch.Generator().manual_seed(5)) for _ in range(2))
        assert first.shape == images.shape
        assert torch.equal(first, second)
        assert not torch.equal(first, images)


def test_a_sheet_of_drawings_is_read_as_it_was_written(tmp_path):
    kept = dict(list(drawings.held_out().items())[: drawings.COLUMNS + 3])
    drawings._write_sheet(tmp_path / "sheet", kept, method=0)
    read = drawings._read_sheet(tmp_path / "sheet")
    assert list(read) == list(kept)
    for drawing, shown in read.items():
        assert np.abs(np.subtract(shown.size, kept[drawing].size)).max() <= 2  # a faint edge may be lost
        assert shown.getchannel("A").getextrema()[1] > 200
