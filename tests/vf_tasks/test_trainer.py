"""Trainer as the tasks use it: batches, updates, what checkpoints hold."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vectorfit import VectorFitError
from vectorfit.transformers import AVFCallback
from vf_tasks.recipe import read
from vf_tasks.run import put_in
from vf_tasks.trainer import LOGGED, ByLength, make, micro_batch, total_steps
from vf_training import methods
from vf_training.methods.random_freezing import RandomVectorFreezing
from vf_training.runs import RunFolder


@given(st.integers(1, 700), st.integers(1, 8), st.integers(0, 3))
def test_batches_of_like_length_hold_every_example_once(count, size, seed):
    lengths = np.random.default_rng(seed).integers(1, 60, count)
    sampler = ByLength(lengths, size, seed)
    order = list(sampler)
    assert sorted(order) == list(range(count))
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert count < 20 or list(sampler) != order
    whole = order[: count // size * size]
    if count <= 50 * size and whole:  # one pool: no batch reaches into the lengths of another
        spans = sorted((min(batch), max(batch)) for batch in lengths[whole].reshape(-1, size))
        assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))


@given(st.integers(1, 5000), st.integers(1, 64), st.floats(0.01, 30))
def test_a_run_has_as_many_updates_as_its_epochs_have_batches(examples, batch_size, epochs):
    recipe = read("cola").changed(batch_size=batch_size, epochs=epochs)
    steps = total_steps(recipe, examples)
    batches = math.ceil(examples / batch_size)
    assert steps >= 1
    assert steps == 1 or epochs * batches <= steps < epochs * batches + 1


def test_a_batch_is_divided_among_forward_passes():
    recipe = read("cola").changed(batch_size=32)
    assert micro_batch(recipe) == 32
    assert micro_batch(recipe.changed(gradient_accumulation_steps=4)) == 8


def make_trainer(prepared, tmp_path, method="vectorfit", steps=4, **changes):
    own, task, rows, model, head = prepared("rte", **changes)
    trained = put_in(method, model, head, own, steps, seed=0)
    trainer, log = make(own, 0, task, trained, task.examples(rows.train, True), RunFolder(tmp_path / "run"), steps)
    return trained, trainer, log


@pytest.mark.parametrize("method", ["vectorfit", "lora", "adalora"])
def test_a_checkpoint_holds_what_is_trained_and_brings_it_back(prepared, tmp_path, method):
    trained, trainer, _ = make_trainer(prepared, tmp_path, method)
    before = {name: value.detach().clone() for name, value in trained.parameters.items()}
    trainer._save(str(tmp_path / "checkpoint"))
    (file,) = (tmp_path / "checkpoint").iterdir()
    assert file.stat().st_size < 4 * sum(value.numel() for value in before.values()) + 60_000
    with torch.no_grad():
        for value in trained.parameters.values():
            value.add_(1.0)
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    assert all(torch.equal(value, before[name]) for name, value in trained.parameters.items())


def test_a_checkpoint_of_another_training_is_refused(prepared, tmp_path):
    _, trainer, _ = make_trainer(prepared, tmp_path)
    trainer._save(str(tmp_path / "checkpoint"))
    (file,) = (tmp_path / "checkpoint").iterdir()
    saved = torch.load(file, weights_only=True)
    saved["parameters"].pop(next(iter(saved["parameters"])))
    torch.save(saved, file)
    with pytest.raises(VectorFitError, match="of another training"):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))


def test_a_loss_that_is_not_finite_ends_the_training_and_says_at_which_update(prepared, tmp_path):
    _, trainer, log = make_trainer(prepared, tmp_path)
    trainer.state.global_step = 3
    with pytest.raises(VectorFitError, match=r"the loss is nan at update 3; lower --learning_rate"):
        log.on_log(trainer.args, trainer.state, trainer.control, logs={"loss": math.nan})


@pytest.mark.parametrize("method", ["vectorfit", "no_avf", "random_freezing"])
def test_vectors_are_frozen_as_the_method_says(prepared, tmp_path, monkeypatch, method):
    offered = dataclasses.replace(methods.find(method), offered_by=(methods.TASKS,))
    monkeypatch.setitem(methods.METHODS, method, offered)
    trained, trainer, log = make_trainer(prepared, tmp_path, method)
    freezings = [callback for callback in log.callbacks if isinstance(callback, AVFCallback)]
    assert len(freezings) == (trained.method.freezing is not None)
    for freezing in freezings:
        freezing.on_train_begin(trainer.args, trainer.state, trainer.control, model=trained.models[""])
        assert isinstance(freezing.avf, RandomVectorFreezing) == (method == "random_freezing")
        assert freezing.avf.top_k == read("rte").avf_top_k


def rates_by_name(trainer, trained):
    """The rate of everything trained, by its name, after Trainer has made its optimizer."""
    optimizer = trainer.create_optimizer()
    rate_of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rate_of) == len(trained.parameters)
    return {name: rate_of[id(parameter)] for name, parameter in trained.parameters.items()}


@pytest.mark.parametrize("method", methods.names(methods.TASKS))
@pytest.mark.parametrize("bias_lr", [0.0, 3e-3])
def test_the_head_has_one_rate_whatever_the_method_and_its_rate(prepared, tmp_path, method, bias_lr):
    rates = {"learning_rate": 3e-2, "head_lr": 2e-3, "bias_lr": bias_lr}
    trained, trainer, _ = make_trainer(prepared, tmp_path, method, **rates)
    for name, rate in rates_by_name(trainer, trained).items():
        own_bias = bias_lr and trained.method.trains_biases and name.endswith(".bias")
        assert rate == (2e-3 if trained.in_head(name) else bias_lr if own_bias else 3e-2), name
    # What the log tells is the method's own rate.
    assert trainer.optimizer.param_groups[0]["lr"] == (2e-3 if method == "head" else 3e-2)


def test_relative_strength_takes_each_vectors_own_rate(prepared, tmp_path):
    rates = {"learning_rate": 3e-2, "bias_lr": 3e-3, "avf_strength": "relative"}
    trained, trainer, log = make_trainer(prepared, tmp_path, **rates)
    (freezing,) = (callback for callback in log.callbacks if isinstance(callback, AVFCallback))
    freezing.on_train_begin(trainer.args, trainer.state, trainer.control, model=trained.models[""])
    with torch.no_grad():
        for vector in trained.parameters.values():
            vector.fill_(6e-3)
    for name, strength in freezing.avf.strengths().items():
        assert strength == pytest.approx(2.0 if name.endswith(".bias") else 0.2)


@pytest.mark.parametrize(("steps", "every"), [(8, 1), (LOGGED, 1), (10 * LOGGED, 10)])
def test_a_log_has_about_as_many_lines_however_long_the_run(prepared, tmp_path, steps, every):
    _, trainer, _ = make_trainer(prepared, tmp_path, steps=steps)
    assert trainer.args.logging_steps == every
