import numpy as np
import pytest
from PIL import Image

from starter import glyphs, tokenizer, world
from starter.subjects import EXAMPLES, SUBJECTS, TUNING_SUBJECTS, photographs


def test_the_world_is_as_large_as_promised():
    assert len(world.CLASSES) >= 20
    assert len(world.BACKGROUNDS) >= 10
    assert len(world.COLORS) == 5
    rng = np.random.default_rng(0)
    scene = world.Scene("owl", "owl/0", "in the snow")
    forms = {world.caption(scene, rng) for _ in range(200)}
    assert {"an owl in the snow", "a photo of an owl in the snow", "a photo of an owl"} <= forms


def test_a_scene_is_a_function_of_its_seed():
    scene = world.Scene("dog", "dog/1", "on the beach", "red")
    first, second, other = (np.asarray(world.draw(scene, np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert first.shape == (world.SIZE, world.SIZE, 3)
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_every_ground_can_be_drawn_and_looks_like_itself(background):
    pictures = [np.asarray(world.BACKGROUNDS[background](np.random.default_rng(seed)), float) for seed in range(3)]
    assert all(picture.shape == (world.CANVAS, world.CANVAS, 3) for picture in pictures)
    means = np.stack([picture.mean((0, 1)) for picture in pictures])
    assert np.ptp(means, axis=0).max() < 60


def test_training_never_draws_a_held_out_glyph():
    rng = np.random.default_rng(0)
    drawn = {world.sample_scene(rng).glyph for _ in range(2000)}
    assert not drawn & set(glyphs.HELD_OUT)
    assert len(drawn) == len(glyphs.names()) - len(glyphs.HELD_OUT)


def test_subjects_are_new_to_the_model():
    for subject in (*SUBJECTS.values(), *TUNING_SUBJECTS.values()):
        assert subject.cls in world.CLASSES
        assert subject.glyph in glyphs.HELD_OUT or subject.pattern
    assert not SUBJECTS.keys() & TUNING_SUBJECTS.keys()


def test_the_examples_are_the_subjects_photographs():
    assert {path.name for path in EXAMPLES.iterdir()} == {*SUBJECTS, "trained"}
    assert len(SUBJECTS) >= 10
    for name, subject in SUBJECTS.items():
        for index, image in enumerate(photographs(name, subject)):
            kept = Image.open(EXAMPLES / name / f"{index:02d}.png")
            # Resampling may differ by a shade between Pillow versions.
            assert np.abs(np.asarray(kept, int) - np.asarray(image, int)).mean() < 2


def test_recolouring_and_patterns_keep_the_outline():
    picture = glyphs.glyph("teapot/0")
    for changed in (world.recolor(picture, world.COLORS["blue"]), world.pattern(picture, "dots", world.COLORS["red"])):
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
    captions = {word for _ in range(3000) for word in world.caption(world.sample_scene(rng), rng).split()}
    assert "sks" not in captions
    assert captions <= set(tokenizer.corpus())
