"""A model split among processes trains as one process does, and any number of them resumes it."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import vectorfit as vf
from tests.vf_tasks.test_trainer import make_trainer
from vectorfit import VectorFitError
from vf_tasks import sharding
from vf_tasks.run_options import Options

# A run that is stopped after its fourth update, when the checkpoint is complete.
STOPPED = """
import sys
from transformers import TrainerCallback
from vf_tasks import run, trainer
from vf_tasks.__main__ import main

class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt

def make(*arguments, **options):
    made, log = trainer.make(*arguments, **options)
    made.add_callback(Stop())
    return made, log

run.make = make
sys.exit(main(sys.argv[1:]))
"""
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29547"]


def train(command, folder, *flags):
    flags = ["gsm8k", "--tiny", "--avf_first_step", "3", "--avf_every", "2", "--output_dir", str(folder), *flags]
    return subprocess.run([*command, *flags], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("factors", ["float32", "square"])
def test_two_processes_train_what_one_trains_and_one_resumes_what_two_began(factors, tmp_path):
    (tmp_path / "stopped.py").write_text(STOPPED)
    flags, module = ("--factors", factors), ["-m", "vf_tasks"]
    done = {
        "one": train([sys.executable, *module], tmp_path / "one", *flags),
        "two": train([*LAUNCH, *module], tmp_path / "two", *flags, "--shard"),
        "begun": train([*LAUNCH, str(tmp_path / "stopped.py")], tmp_path / "resumed", *flags, "--shard"),
    }
    assert done["one"].returncode == done["two"].returncode == 0, done["one"].stderr + done["two"].stderr
    assert done["begun"].returncode != 0
    assert "in 2 parts, one a process" in done["two"].stderr
    assert [path.name for path in (tmp_path / "resumed" / "checkpoints").glob("step_*")] == ["step_000004"]
    resumed = train([sys.executable, *module], tmp_path / "resumed", *flags, "--shard")
    assert resumed.returncode == 0, resumed.stderr
    one, two, again = (load_file(tmp_path / name / "vectors.safetensors") for name in ("one", "two", "resumed"))
    assert one.keys() == two.keys() == again.keys()
    assert any(vector.abs().max() > 1e-3 for vector in one.values())
    for name, vector in one.items():
        torch.testing.assert_close(two[name], vector, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(again[name], vector, atol=1e-5, rtol=1e-4)
    logs = [len((tmp_path / name / "log.jsonl").read_text().splitlines()) for name in ("one", "two", "resumed")]
    assert logs == [8, 8, 8]


def test_a_checkpoint_in_parts_holds_parameters_and_optimizer(prepared, tmp_path):
    trained, _, _ = make_trainer(prepared, tmp_path)
    parameters, model = trained.parameters, trained.models[""]
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    sum(value.square().sum() + value.sum() for value in parameters.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    saved = {name: value.detach().clone() for name, value in parameters.items()}
    moments = [optimizer.state[value]["exp_avg"].clone() for value in parameters.values()]
    names = {name: value for name, value in model.named_parameters() if value.requires_grad}
    sharding.save_checkpoint(tmp_path / "checkpoint", model, names, optimizer)
    with torch.no_grad():
        for value in parameters.values():
            value.zero_()
    fresh = torch.optim.AdamW(parameters.values(), lr=0.1)
    sharding.load_parameters(tmp_path / "checkpoint", names)
    sharding.load_optimizer(tmp_path / "checkpoint", model, fresh)
    assert all(torch.equal(value, saved[name]) for name, value in parameters.items())
    assert all(torch.equal(fresh.state[v]["exp_avg"], m) for v, m in zip(parameters.values(), moments, strict=True))
    names.pop(next(iter(names)))
    with pytest.raises(VectorFitError, match="of another training"):
        sharding.load_parameters(tmp_path / "checkpoint", names)


def test_factors_become_frozen_parameters_outside_state_dicts():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    vf.inject(model, vf.VectorFitConfig(factors="square"))
    before, x = dict(model.state_dict()), torch.randn(3, 6)
    expected = model(x)
    vf.shard_factors(model)
    assert model.state_dict().keys() == before.keys()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert {"0.U", "1.U"} <= frozen
    model.load_state_dict(before)  # strict: factors are not missing
    torch.testing.assert_close(model(x), expected)
    sharding.shard(model, None)
    assert not sharding.is_sharded(model)


@pytest.mark.parametrize("name", sharding.REFUSED)
def test_other_ways_to_split_are_refused_with_the_reason(name, monkeypatch):
    variable, why = sharding.REFUSED[name]
    sharding.check(Options())
    monkeypatch.setenv(variable, "true")
    with pytest.raises(VectorFitError, match=f"{name}: {why}; .*give --shard"):
        sharding.check(Options())


def test_a_method_without_vectors_is_not_split():
    with pytest.raises(VectorFitError, match="--shard: lora trains no vectors"):
        sharding.check(Options(method="lora", shard=True))


def test_processes_take_turns():
    assert sharding.in_turn(lambda: 3) == 3
    assert sharding.mesh() is None
