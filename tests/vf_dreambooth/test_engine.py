"""A base kept ready: switched without drifting, stopped between steps, sampled as asked."""

import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import ImageChops
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

from tests.vf_dreambooth.conftest import build_tiny, write_subject
from vectorfit import VectorFitError
from vf_dreambooth import engine as engine_module
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.engine import MOST_TOGETHER, OWN_SCHEDULER, SCHEDULERS, Engine, PromptBatch
from vf_dreambooth.pipeline import GenerationSettings, generate, generate_images, load_pipeline

SAMPLING = GenerationSettings(3, 2.0, 16, batch_size=2)


@pytest.fixture
def order(tiny_base, subject):
    return PromptBatch(resolve(str(tiny_base)), ((subject, 1.0),), ("a dog",) * 3, (1, 2, 3), SAMPLING)


def pixels(drawn) -> list[bytes]:
    return [one.image.tobytes() for one in drawn]


def test_switching_neither_drifts_nor_reloads(order, monkeypatch):
    engine, loads = Engine(), []

    def counted(*arguments, **named):
        loads.append(1)
        return load_pipeline(*arguments, **named)

    monkeypatch.setattr(engine_module, "load_pipeline", counted)
    plain = replace(order, subjects=())
    base, first = pixels(engine.generate(plain)), pixels(engine.generate(order))
    assert base != first
    for _ in range(3):
        assert pixels(engine.generate(plain)) == base
        assert pixels(engine.generate(order)) == first
    fresh = load(order.base)
    assert base == [image.tobytes() for image in generate_images(fresh, order.prompts, order.seeds, SAMPLING)]
    assert loads == [1]


def test_strength_nought_is_the_base_to_the_last_bit(order):
    engine, ((path, _),) = Engine(), order.subjects
    base = pixels(engine.generate(replace(order, subjects=())))
    assert pixels(engine.generate(replace(order, subjects=((path, 0.0),)))) == base
    assert pixels(engine.generate(replace(order, subjects=((path, 0.5),)))) != base


def test_a_preview_shows_every_image_after_every_step_and_changes_none(order):
    engine, seen = Engine(), []
    plain = pixels(engine.generate(order))
    previewed = engine.generate(order, preview=lambda index, image: seen.append((index, image.size)))
    assert pixels(previewed) == plain
    assert sorted(index for index, _ in seen) == sorted([0, 1, 2] * SAMPLING.num_inference_steps)
    assert len({size for _, size in seen}) == 1


def test_a_file_trained_anew_is_read_anew(order, tmp_path):
    engine, ((path, _),) = Engine(), order.subjects
    engine.generate(order)
    path.write_bytes(b"no longer a subject file")
    with pytest.raises(VectorFitError, match="not a whole safetensors file"):
        engine.generate(order)
    assert engine.generate(replace(order, subjects=()))  # and the engine lives on


def test_every_step_is_told_and_can_be_the_last(order):
    engine, told = Engine(), []
    engine.generate(order, told.append)
    assert told == [0, 1, 2, 3, 4, 5, 6]  # two batches of three steps
    assert order.steps == 6

    class Enough(Exception):
        pass

    for last in (4, 0):

        def stop(done, last=last):
            if done == last:
                raise Enough

        with pytest.raises(Enough):
            engine.generate(order, stop)
    told.clear()
    engine.generate(order, told.append)
    assert len(told) == 7


def test_schedulers_are_chosen_by_name_and_leave_the_models_own_in_its_place(order):
    engine = Engine()
    own = pixels(engine.generate(order))
    for name in SCHEDULERS:
        assert len(engine.generate(replace(order, scheduler=name))) == 3
    assert pixels(engine.generate(replace(order, scheduler="Euler"))) != own
    assert pixels(engine.generate(replace(order, scheduler=OWN_SCHEDULER))) == own
    with pytest.raises(VectorFitError, match="expected the model's own, DDIM"):
        engine.generate(replace(order, scheduler="best"))


def test_an_unfit_subject_leaves_the_engine_as_it_was(order, tmp_path):
    engine = Engine()
    before = pixels(engine.generate(order))
    with pytest.raises((VectorFitError, OSError)):
        engine.generate(replace(order, subjects=((tmp_path / "none.safetensors", 1.0),)))
    assert pixels(engine.generate(order)) == before


def test_the_base_is_let_go_at_once_or_after_the_request_in_progress(order, monkeypatch):
    engine, pipes = Engine(), []

    def kept(*arguments, **named):
        pipe = load_pipeline(*arguments, **named)
        pipes.append(weakref.ref(pipe.unet))
        return pipe

    monkeypatch.setattr(engine_module, "load_pipeline", kept)
    before = pixels(engine.generate(order))
    engine.release_when_idle()
    assert pipes[0]() is None
    held = []

    def let_go(done):
        if done == 1:
            engine.release_when_idle()
        held.append(pipes[-1]() is not None if done else None)

    assert pixels(engine.generate(order, let_go)) == before
    assert all(held[1:])
    assert pipes[1]() is None


@pytest.mark.parametrize("threshold", [-2.0, 2.0])
def test_what_the_safety_checker_blanks_is_told(tiny_base, threshold):
    """A real checker of few weights: no cosine is below -2, and none above 2."""
    pipe = load(resolve(str(tiny_base)))
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = CLIPConfig(vision_config=vision.to_dict(), projection_dim=8)
    pipe.safety_checker = StableDiffusionSafetyChecker(config).eval()
    torch.nn.init.normal_(pipe.safety_checker.concept_embeds)
    for weights in (pipe.safety_checker.concept_embeds_weights, pipe.safety_checker.special_care_embeds_weights):
        torch.nn.init.constant_(weights, threshold)
    pipe.feature_extractor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    drawn = generate(pipe, ["a dog"] * 2, [1, 2], SAMPLING)
    assert [one.blanked for one in drawn] == [threshold < 0] * 2
    assert [one.image.getextrema() == ((0, 0),) * 3 for one in drawn] == [threshold < 0] * 2


class Held(Engine):
    """Draws nothing until so many requests wait."""

    def __init__(self, requests: int):
        super().__init__()
        self.requests = requests

    def _taken(self, turn):
        while len(self._waiting) < self.requests:
            time.sleep(0.005)
        self.requests = 0
        taken = super()._taken(turn)
        self.taken = [*getattr(self, "taken", []), len(taken)]
        return taken


def at_once(engine, orders, told=None):
    """What each order gives, or its error, of orders that come at the same time."""

    def outcome(order):
        try:
            return engine.generate(order, (told or {}).get(id(order), lambda done: None))
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(orders)) as pool:
        return list(pool.map(outcome, orders))


def apart(drawn, alone) -> int:
    """The largest difference between pictures, in grey levels."""
    pairs = zip(drawn, alone, strict=True)
    return max(high for a, b in pairs for _, high in ImageChops.difference(a.image, b.image).getextrema())


def test_requests_of_different_subjects_are_drawn_in_one_batch_each_as_alone(order, other_subject):
    others = replace(order, subjects=((other_subject, 1.0),), seeds=(5, 1), prompts=("a cat",) * 2)
    mixed = replace(order, subjects=((other_subject, 0.5), *order.subjects), seeds=(8,), prompts=("a cup",))
    base = replace(order, subjects=(), seeds=(1,), prompts=("a dog",))
    orders, told = [order, others, mixed, base], {}
    engine, steps = Held(4), []
    told[id(order)] = steps.append
    results = at_once(engine, orders, told)
    assert engine.taken == [4]
    assert steps == [0, 2, 4, 6]  # as many as if it were alone
    alone = [Engine().generate(one) for one in orders]
    for one, own in zip(results, alone, strict=True):
        assert len(one) == len(own)
        assert apart(one, own) <= 1
    assert apart(results[0], results[3] * 3) > 1
    assert pixels(engine.generate(order)) == pixels(alone[0])  # and afterwards alone to the last bit
    assert pixels(engine.generate(base)) == pixels(alone[3])


def test_requests_that_are_not_alike_take_turns(order, other_subject):
    others = replace(order, subjects=((other_subject, 1.0),))
    unlike = [others, replace(others, scheduler="DDIM"), replace(others, settings=replace(SAMPLING, guidance_scale=3))]
    engine = Held(4)
    results = at_once(engine, [order, *unlike])
    assert sorted(engine.taken) == [1, 1, 2]
    assert pixels(results[2]) == pixels(Engine().generate(unlike[1]))
    many = replace(order, seeds=tuple(range(MOST_TOGETHER)), prompts=("a dog",) * MOST_TOGETHER)
    engine = Held(2)
    at_once(engine, [many, others])
    assert engine.taken == [1, 1]  # too many for one batch


def test_a_subject_of_another_base_is_told_to_its_own_request(order, other_subject, tmp_path):
    build_tiny(seed=1).save_pretrained(tmp_path / "other-base")
    foreign = write_subject(tmp_path / "foreign.safetensors", tmp_path / "other-base", 0)
    others = replace(order, subjects=((other_subject, 1.0),))
    engine = Held(3)
    wrong = replace(order, subjects=((foreign, 1.0),), seeds=(4,), prompts=("a cup",))
    results = at_once(engine, [order, wrong, others])
    assert engine.taken == [3]
    assert isinstance(results[1], VectorFitError)
    assert pixels(results[0]) == pixels(Engine().generate(order))  # drawn alone, since the batch could not be
    assert len(results[2]) == 3


def test_one_request_that_fails_or_is_cancelled_hinders_no_other(order, other_subject, tmp_path):
    class Enough(Exception):
        pass

    def stop(done):
        if done:
            raise Enough

    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(other_subject.read_bytes()[:-100])
    others = replace(order, subjects=((other_subject, 1.0),))
    expected = pixels(Engine().generate(order))
    engine = Held(2)
    first, second = at_once(engine, [order, others], {id(others): stop})
    assert isinstance(second, Enough)
    assert engine.taken == [2]
    assert apart(first, Engine().generate(order)) <= 1
    engine = Held(3)
    results = at_once(engine, [order, others, replace(order, subjects=((damaged, 1.0),))])
    assert isinstance(results[2], VectorFitError)
    assert pixels(engine.generate(order)) == expected
    assert len(results[0]) == len(results[1]) == 3
