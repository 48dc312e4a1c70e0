from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vectorfit as vf
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import (
    GenerationSettings,
    adapted_models,
    batches,
    generate_images,
    load_pipeline,
    previewing,
    set_subjects,
)

SAMPLING = GenerationSettings(num_inference_steps=2, guidance_scale=3.0, resolution=16)


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_strength_zero_is_the_base_and_one_is_not(tiny_base, subject):
    base = resolve(str(tiny_base))
    pictures = [
        pixels(generate_images(load_pipeline(base, subjects, device="cpu"), ["a dog"], [3], SAMPLING))
        for subjects in ([], [(subject, 0.0)], [(subject, 1.0)])
    ]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_switching_back_gives_the_base_bit_for_bit(tiny_base, subject):
    pipe = load_pipeline(resolve(str(tiny_base)), device="cpu")
    before = pixels(generate_images(pipe, ["a dog"], [3], SAMPLING))
    set_subjects(pipe, [(subject, 1.0)])
    set_subjects(pipe, [])
    assert (pixels(generate_images(pipe, ["a dog"], [3], SAMPLING)) == before).all()


def test_without_a_negative_prompt_the_pipeline_takes_its_own(tiny_base, monkeypatch):
    pipe, given = load_pipeline(resolve(str(tiny_base)), device="cpu"), []
    generate_of_pipeline = type(pipe).__call__

    def call(self, *arguments, negative_prompt, **options):
        given.append(negative_prompt)
        return generate_of_pipeline(self, *arguments, negative_prompt=negative_prompt, **options)

    monkeypatch.setattr(type(pipe), "__call__", call)
    for words in ("", "a cat"):
        generate_images(pipe, ["a dog", "a dog"], [0, 1], replace(SAMPLING, negative_prompt=words, batch_size=2))
    assert given == [None, ["a cat", "a cat"]]


def in_any_company(pipe, sampling, seeds=(5, 6, 7, 8, 9)):
    """Each seed's picture drawn alone, among others, among others in another order, and twice at once."""
    shuffled = sorted(seeds, key=lambda seed: seed * 7 % 10)
    alone = {seed: pixels(generate_images(pipe, ["a dog"], [seed], sampling))[0] for seed in seeds}
    for company in (seeds, shuffled, seeds[1:], [seeds[2]] * 2):
        asked = [*seeds, *company]
        words = ["a cat in the snow"] * len(seeds) + ["a dog"] * len(company)
        yield (
            alone,
            dict(zip(company, pixels(generate_images(pipe, words, asked, sampling))[len(seeds) :], strict=True)),
        )


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_seed_gives_its_picture_whatever_is_drawn_beside_it(tiny_base, size):
    """By a UNet that rounds by the size of its batch and the place in it, as some processors' kernels do."""
    pipe = load_pipeline(resolve(str(tiny_base)), device="cpu")
    plain = pixels(generate_images(pipe, ["a dog"], [5], replace(SAMPLING, batch_size=size)))

    def round_otherwise(_module, _inputs, found):
        places = torch.arange(len(found[0])).view(-1, 1, 1, 1)
        return (found[0] * (1 + 0.1 * places + len(places)),)

    pipe.unet.register_forward_hook(round_otherwise)
    for alone, beside in in_any_company(pipe, replace(SAMPLING, batch_size=size)):
        assert all((beside[seed] == alone[seed]).all() for seed in beside)
    assert (alone[5] != plain[0]).any()


@pytest.mark.parametrize("threads", [1, 3])  # with three, oneDNN rounds by the place in the batch
def test_the_starters_pictures_are_the_same_in_any_company(threads):
    base, before = resolve("starter"), torch.get_num_threads()
    pipe = load_pipeline(base, device="cpu")
    pipe.vae.decoder.register_forward_hook(lambda *told: (told[-1] * 2**18) % 1)  # the last bits of a float, to be seen
    try:
        torch.set_num_threads(threads)
        for alone, beside in in_any_company(
            pipe, replace(GenerationSettings.of(base.preset), num_inference_steps=2), (5, 6, 7)
        ):
            assert all((beside[seed] == alone[seed]).all() for seed in beside)
    finally:
        torch.set_num_threads(before)


@given(st.lists(st.integers(0, 2**32)), st.integers(1, 9))
def test_every_picture_stands_once_at_its_own_place_in_the_fewest_batches(places, size):
    found = batches(places, size)
    standing = [(index, place) for batch in found for place, index in enumerate(batch) if index is not None]
    assert sorted(standing) == [(index, place % size) for index, place in enumerate(places)]
    assert all(len(batch) == size and any(index is not None for index in batch) for batch in found)
    assert len(found) == max(Counter(place % size for place in places).values(), default=0)


def test_previews_leave_modes_weights_and_randomness_alone(tiny_base):
    pipe = load(resolve(str(tiny_base)))
    models = adapted_models(pipe)
    vf.inject(models)
    pipe.unet.train()
    pipe.text_encoder.eval()
    state = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    random = torch.get_rng_state()
    with previewing(pipe):
        assert not pipe.unet.training
        generate_images(pipe, ["a dog"], [0], SAMPLING)
    assert pipe.unet.training
    assert not pipe.text_encoder.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in pipe.unet.state_dict().items())


def test_half_precision_draws_nearly_the_same_and_switches_without_an_error(tiny_base, subject):
    base, half = resolve(str(tiny_base)), torch.bfloat16
    exact = load_pipeline(base, [(subject, 1.0)], device="cpu")
    pipe = load_pipeline(base, [(subject, 1.0)], device="cpu", dtype=half)
    parameters = [*pipe.unet.parameters(), *pipe.text_encoder.parameters(), *pipe.vae.parameters()]
    moving = [parameter for parameter in parameters if not parameter.requires_grad or parameter.dtype == half]
    assert {parameter.dtype for parameter in moving} == {half}
    assert pipe.vae.use_slicing
    drawn = pixels(generate_images(pipe, ["a dog"], [3], SAMPLING))
    assert np.abs(drawn - pixels(generate_images(exact, ["a dog"], [3], SAMPLING))).mean() < 3
    set_subjects(pipe, [])
    base_drawn = pixels(generate_images(pipe, ["a dog"], [3], SAMPLING))
    plain = load(base).to(half)
    assert (base_drawn == pixels(generate_images(plain, ["a dog"], [3], SAMPLING))).all()
    set_subjects(pipe, [(subject, 1.0)])  # on the base's own weights: its hash is verified
    assert (pixels(generate_images(pipe, ["a dog"], [3], SAMPLING)) == drawn).all()
    assert (drawn != base_drawn).any()


def test_a_base_alone_in_half_precision_takes_subjects_of_any_pattern_later(tiny_base, subject, tmp_path):
    base = resolve(str(tiny_base))
    models = adapted_models(load(base))
    vf.inject(models, vf.VectorFitConfig(variant="sigma", pattern="banded", pattern_width=1))
    with torch.no_grad():
        for vector in vf.vector_parameters(models).values():
            vector.normal_(std=0.3)
    vf.save_vectors(models, tmp_path / "banded.safetensors", base_model=str(tiny_base))
    pipe = load_pipeline(base, device="cpu", dtype=torch.bfloat16)
    for file in (subject, tmp_path / "banded.safetensors", subject):
        set_subjects(pipe, [(file, 1.0)])
        fresh = load_pipeline(base, [(file, 1.0)], device="cpu", dtype=torch.bfloat16)
        drawn, expected = (pixels(generate_images(each, ["a dog"], [3], SAMPLING)) for each in (pipe, fresh))
        assert (drawn == expected).all()


def test_a_subject_on_the_wrong_base_is_refused(subject, tmp_path):
    with pytest.raises(vf.VectorFitError, match="trained on"):
        load_pipeline(resolve("starter"), [(subject, 1.0)])
