"""Adaptive Vector Freezing under transformers' Trainer."""

import json
import multiprocessing
import os
import socket
import warnings

import peft
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import vectorfit as vf
import vectorfit.peft as vp
from vectorfit.transformers import AVFCallback

SCHEDULE = {"first_step": 3, "every": 2, "num_freezes": 3, "top_k": 2}


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 10), nn.GELU(), nn.Linear(10, 1))

    def forward(self, x, labels=None):
        y = self.layers(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(y, labels), "logits": y}


def rows(count=48):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return [{"x": row, "labels": row.sum() * 3} for row in x]


class Watch(TrainerCallback):
    """Notes, at every update, which vectors are frozen and what they are."""

    def __init__(self, callback):
        self.callback, self.frozen, self.values, self.norms = callback, [], [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.frozen.append(self.callback.avf.frozen)
        self.values.append({n: v.detach().clone() for n, v in vf.vector_parameters(model).items()})

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.norms.append(logs["grad_norm"])


def arguments(folder, **changes):
    settings = {"per_device_train_batch_size": 4, "max_steps": 10, "logging_steps": 1, "learning_rate": 0.02}
    settings |= {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "seed": 0}
    settings |= {"lr_scheduler_type": "linear", "weight_decay": 0.1}
    return TrainingArguments(str(folder), **{**settings, **changes})


def train(folder, model=None, callback=None, resume=None, **changes):
    if model is None:
        model = Regression()
        vf.inject(model)
    callback = callback or AVFCallback(**SCHEDULE)
    watch = Watch(callback)
    trainer = Trainer(model, arguments(folder, **changes), train_dataset=rows(), callbacks=[callback, watch])
    trainer.train(resume_from_checkpoint=resume)
    return model, watch, trainer


def by_hand(steps=10, max_norm=1.0, accumulate=1):
    """The same training as a plain loop over the same batches, frozen gradients dropped before clipping."""
    model = Regression()
    vf.inject(model)
    trainer = Trainer(model, arguments("unused", max_steps=steps), train_dataset=rows())
    avf = vf.AdaptiveVectorFreezing(model, **SCHEDULE)
    trainer.create_optimizer_and_scheduler(steps)
    frozen, norms = [], []
    torch.manual_seed(0)
    batches = []
    while len(batches) < steps * accumulate:
        batches += list(trainer.get_train_dataloader())
    for step in range(1, steps + 1):
        for batch in batches[(step - 1) * accumulate : step * accumulate]:
            (model.train()(**batch)["loss"] / accumulate).backward()
        frozen.append(avf.step(step))
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), max_norm)))
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
    return model, frozen, norms


def vectors(model):
    return {name: vector.detach().clone() for name, vector in vf.vector_parameters(model).items()}


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (3, 4)])  # within an epoch: its batches are known by hand
def test_trainer_trains_as_the_loop_by_hand_whose_clipping_leaves_frozen_vectors_out(tmp_path, accumulate, steps):
    model, watch, _ = train(tmp_path, gradient_accumulation_steps=accumulate, max_steps=steps)
    again, frozen, norms = by_hand(steps, accumulate=accumulate)
    assert len(watch.frozen) == steps
    assert [len(names) for names in frozen] == [0, 0] + [2] * (steps - 2)
    assert watch.frozen == frozen
    assert watch.norms == pytest.approx(norms, rel=1e-4)
    assert max(norms) > 1  # so that clipping is at work
    for name, value in vectors(again).items():
        torch.testing.assert_close(vectors(model)[name], value, atol=1e-6, rtol=1e-4)
    for before, after, names in zip(watch.values, [*watch.values[1:], vectors(model)], watch.frozen, strict=True):
        for name, value in before.items():
            assert torch.equal(value, after[name]) == (name in names)


def test_a_resumed_training_equals_the_uninterrupted_one(tmp_path):
    whole, watch, _ = train(tmp_path / "whole", save_strategy="steps", save_steps=4)
    assert json.loads((tmp_path / "whole/checkpoint-4/trainer_state.json").read_text())["stateful_callbacks"][
        "AVFCallback"
    ]
    resumed, later, _ = train(tmp_path / "resumed", resume=str(tmp_path / "whole/checkpoint-4"))
    assert later.frozen == watch.frozen[4:]
    for name, value in vectors(whole).items():
        assert torch.equal(vectors(resumed)[name], value)


def test_a_checkpoint_without_the_freezing_is_refused(tmp_path):
    model = Regression()
    vf.inject(model)
    settings = arguments(tmp_path, save_strategy="steps", save_steps=5, max_steps=5)
    Trainer(model, settings, train_dataset=rows()).train()
    with pytest.raises(vf.VectorFitError, match="trained without AVFCallback"):
        train(tmp_path, resume=str(tmp_path / "checkpoint-5"))


def test_peft_models_are_frozen_alike(tmp_path):
    plain, watch, _ = train(tmp_path / "plain")
    wrapped = peft.get_peft_model(Regression(), vp.VectorFitConfig())
    _, theirs, _ = train(tmp_path / "peft", wrapped, label_names=["labels"])
    shorter = [
        tuple(name.removeprefix("base_model.model.").removesuffix(".default") for name in names)
        for names in theirs.frozen
    ]
    assert shorter == watch.frozen
    for name, value in vectors(wrapped).items():
        assert torch.equal(value, vectors(plain)[name.removeprefix("base_model.model.").removesuffix(".default")])


class Interrupt(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_after_an_interruption_every_vector_trains_again(tmp_path):
    model = Regression()
    vf.inject(model)
    callback = AVFCallback(**SCHEDULE)
    settings = arguments(tmp_path, gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt):
        Trainer(model, settings, train_dataset=rows(), callbacks=[callback, Interrupt()]).train()
    assert callback.avf.frozen
    before = vectors(model)
    later = AVFCallback(first_step=100, every=1, num_freezes=0)
    Trainer(model, arguments(tmp_path, weight_decay=0.0, max_steps=2), train_dataset=rows(), callbacks=[later]).train()
    assert not any(torch.equal(value, before[name]) for name, value in vectors(model).items())


def test_deepspeed_is_refused(tmp_path):
    settings = arguments(tmp_path)
    settings.deepspeed = "zero.json"
    with pytest.raises(vf.VectorFitError, match="DeepSpeed steps inside backward"):
        AVFCallback().on_train_begin(settings, None, None, model=Regression())


def test_without_a_schedule_the_papers_guideline_is_taken(tmp_path):
    callback = AVFCallback(top_k=1)
    train(tmp_path, callback=callback, max_steps=20)
    assert callback.avf.schedule == vf.avf_schedule(20)
    assert len(callback.avf.frozen) == 1


def test_it_warns_when_the_freezing_never_came(tmp_path):
    with pytest.warns(UserWarning, match="never happened.*after 4 updates.*comes at 30"):
        train(tmp_path, callback=AVFCallback(first_step=30, every=2, num_freezes=3, top_k=2), max_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(tmp_path)


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(vf.VectorFitError, match="together"):
        AVFCallback(first_step=3)
    with pytest.raises(vf.VectorFitError, match="0 vectors"):
        train(tmp_path, Regression())


def rank(number, count, port, folder):
    settings = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in settings.items()})
    torch.set_num_threads(1)
    model, watch, _ = train(
        folder / "run", per_device_train_batch_size=4 // count, ddp_backend="gloo" if count > 1 else None
    )
    torch.save(
        {"frozen": watch.frozen, "vectors": vectors(model), "norms": watch.norms}, folder / f"{count}-{number}.pt"
    )
    os._exit(0)


@pytest.mark.slow
def test_two_processes_freeze_the_same_and_train_as_one(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers", "peft"])
    found = {}
    for count in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [context.Process(target=rank, args=(number, count, port, tmp_path)) for number in range(count)]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [0] * count
        found |= {(count, number): torch.load(tmp_path / f"{count}-{number}.pt") for number in range(count)}
    assert found[2, 0]["frozen"] == found[2, 1]["frozen"]
    for name, value in found[2, 0]["vectors"].items():
        assert torch.equal(found[2, 1]["vectors"][name], value)
    assert [len(names) for names in found[2, 0]["frozen"]] == [0, 0] + [2] * 8
    # The samplers deal the same rows into the same global batches, so one process is the reference.
    assert found[2, 0]["frozen"] == found[1, 0]["frozen"]
    assert found[2, 0]["norms"] == pytest.approx(found[1, 0]["norms"], rel=1e-3)
    for name, value in found[1, 0]["vectors"].items():
        torch.testing.assert_close(found[2, 0]["vectors"][name], value, atol=1e-5, rtol=1e-3)
