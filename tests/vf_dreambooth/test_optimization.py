"""Learning rates and the moving average."""

import copy
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_dreambooth_vectorfit as script
from train_dreambooth_vectorfit import adapted, main
from vectorfit import VectorFitError
from vectorfit.fingerprint import canonical_name
from vf_dreambooth import families, objective, optimization, setup
from vf_dreambooth.base_models import load
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_training import methods
from vf_training.options import option
from vf_training.runs import RunFolder


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def test_the_text_encoders_own_rate(arguments, tmp_path):
    # AdamW's first step moves a number by its rate, or by less where the gradient is next to nothing.
    main(arguments(tmp_path / "run", "--max_train_steps", 1, "--text_encoder_lr", 1e-4, "--no-avf"))
    moved = {"unet": 0.0, "text_encoder": 0.0}
    for name, vector in vectors(tmp_path / "run").items():
        model = name.split(".")[0]
        moved[model] = max(moved[model], vector.abs().max().item())
    assert moved == pytest.approx({"unet": 1e-2, "text_encoder": 1e-4}, rel=1e-2)


def test_the_biases_own_rate(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--max_train_steps", 1, "--bias_lr", 1e-4, "--no-avf"))
    moved = {"sigma": 0.0, "bias": 0.0}
    for name, vector in vectors(tmp_path / "run").items():
        kind = name.split(".")[-1]
        moved[kind] = max(moved[kind], vector.abs().max().item())
    assert moved == pytest.approx({"sigma": 1e-2, "bias": 1e-4}, rel=1e-2)
    (entry,) = RunFolder(tmp_path / "run").read_log()
    assert (entry["lr"], entry["lr_bias"]) == (1e-2, 1e-4)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ((), {"lr": 4e-2, "lr_bias": 4e-3}),
        (("--learning_rate", 1e-2), {"lr": 1e-2}),  # one rate for everything, as in the paper
        (("--learning_rate", 1e-2, "--bias_lr", 1e-4), {"lr": 1e-2, "lr_bias": 1e-4}),
        (("--method", "sigma"), {"lr": 4e-2}),
        (("--method", "lora"), {"lr": 3e-3}),
        (("--recipe", "paper"), {"lr": 2e-2}),  # the best single rate
        (("--recipe", "paper", "--bias_lr", 1e-3), {"lr": 2e-2, "lr_bias": 1e-3}),
        (("--recipe", "tuned", "--learning_rate", 1e-2), {"lr": 1e-2}),
        # The text encoder's biases keep their share.
        (
            ("--text_encoder_lr", 1e-4),
            {"lr": 4e-2, "lr_bias": 4e-3, "lr_text_encoder": 1e-4, "lr_text_encoder_bias": 1e-5},
        ),
        (("--text_encoder_lr", 1e-4, "--method", "sigma"), {"lr": 4e-2, "lr_text_encoder": 1e-4}),
    ],
)
def test_a_base_may_have_a_rate_for_biases(photos, tiny_base, tmp_path, monkeypatch, flags, rates):
    preset = families.Preset(16, 4e-2, 4, 3, 2, 2.0, bias_lr=4e-3, one_rate=2e-2, rates_for=methods.STARTER)
    monkeypatch.setitem(StableDiffusion.presets, families.SD14, preset)
    given = ["--instance_dir", photos, "--base_model", tiny_base, "--output_dir", tmp_path / "run", *flags]
    (prepared,), _ = setup.prepare([str(flag) for flag in given])
    built = optimization.build(prepared.config, adapted(load(prepared.base), train_text_encoder=True))

    assert built.rates() == pytest.approx(rates)


def test_the_text_encoders_rate_with_the_value_of_the_main_one_changes_nothing(arguments, tmp_path):
    main(arguments(tmp_path / "one", "--max_train_steps", 2, "--bias_lr", 1e-3, "--no-avf"))
    main(arguments(tmp_path / "own", "--max_train_steps", 2, "--bias_lr", 1e-3, "--no-avf", "--text_encoder_lr", 1e-2))
    one, own = vectors(tmp_path / "one"), vectors(tmp_path / "own")
    assert all(torch.equal(one[name], own[name]) for name in one)


def test_a_base_without_a_sweep_takes_the_papers_recipe_and_says_so(arguments, tmp_path, capsys):
    flags = arguments(tmp_path / "run")
    (prepared,), _ = setup.prepare(flags)
    assert prepared.config.recipe == "paper"
    assert prepared.config.bias_lr is None
    setup.announce(prepared, print)
    assert "no sweep of ours found one for each here" in capsys.readouterr().out
    at = flags.index("--learning_rate")
    with pytest.raises(VectorFitError, match=r"--recipe: tuned has no rates for .*give --recipe paper"):
        setup.prepare([*flags[:at], *flags[at + 2 :], "--recipe", "tuned"])


@pytest.mark.parametrize("strength", ["absolute", "relative"])
def test_freezing_by_distance_or_by_own_steps(arguments, tmp_path, strength):
    flags = ("--bias_lr", 1e-4, "--avf_strength", strength, "--avf_first_step", 2, "--avf_every", 1)
    main(arguments(tmp_path / "run", *flags))
    frozen = [name for entry in RunFolder(tmp_path / "run").read_log() for name in entry["frozen"]]
    assert frozen
    kinds = {name.rpartition(".")[2] for name in frozen}
    # By distance only sigma counts, whose rate is a hundred times the biases'.
    assert kinds == {"sigma"} if strength == "absolute" else "bias" in kinds


def test_a_method_without_biases_has_no_rate_for_them(arguments, tmp_path):
    with pytest.raises(VectorFitError, match="--bias_lr: --method sigma_a trains no bias vectors"):
        setup.prepare(arguments(tmp_path / "run", "--method", "sigma_a", "--bias_lr", 1e-3, "--no-avf"))


@dataclass(frozen=True)
class WithAttention(TrainConfig):
    attention_lr: float | None = option(None, "", group="", rate_of="*attn*")


def test_a_rate_of_its_own_is_declared_by_its_setting_alone():
    config = WithAttention(instance_data_dir=".", learning_rate=1.0, text_encoder_lr=0.1, attention_lr=0.2)
    rates = [(rate.log_key, rate.pattern, rate.value) for rate in optimization.rates_of(config)]
    assert rates == [("lr_text_encoder", "text_encoder*", 0.1), ("lr_attention", "*attn*", 0.2), ("lr", "*", 1.0)]
    (main,) = optimization.rates_of(WithAttention(instance_data_dir=".", learning_rate=1.0))
    assert main.log_key == "lr"


@pytest.fixture
def two_text_encoders(monkeypatch):
    """Stable Diffusion with a second text encoder, as other families have it."""
    own = StableDiffusion.adapted_models

    def adapted_models(self, pipe):
        return {**own(self, pipe), "text_encoder_2": copy.deepcopy(pipe.text_encoder)}

    monkeypatch.setattr(StableDiffusion, "adapted_models", adapted_models)


def test_what_holds_for_the_text_encoder_holds_for_a_second_one(arguments, tmp_path, two_text_encoders):
    (prepared,), _ = setup.prepare(arguments(tmp_path / "run", "--text_encoder_lr", 1e-4))
    pipe = load(prepared.base)
    assert set(adapted(pipe, train_text_encoder=False)) == {"unet"}
    built = optimization.build(prepared.config, adapted(pipe, train_text_encoder=True))
    names = {id(vector): name.split(".")[0] for name, vector in built.vectors.items()}
    groups = [{names[id(vector)] for vector in group["params"]} for group in built.optimizer.param_groups]
    assert groups == [{"unet"}, {"text_encoder", "text_encoder_2"}]
    assert built.rates() == {"lr": 1e-2, "lr_text_encoder": 1e-4}


@pytest.mark.parametrize("own_rate", [None, 1e-4])
def test_every_vector_is_in_the_group_of_its_rate_and_the_main_group_is_first(arguments, tmp_path, own_rate):
    flags = () if own_rate is None else ("--text_encoder_lr", own_rate)
    (prepared,), _ = setup.prepare(arguments(tmp_path / "run", *flags))
    built = optimization.build(prepared.config, adapted(load(prepared.base), train_text_encoder=True))
    names = {id(vector): name for name, vector in built.vectors.items()}
    groups = [[names[id(vector)] for vector in group["params"]] for group in built.optimizer.param_groups]
    of_text = [name for name in built.vectors if name.startswith("text_encoder.")]
    others = [name for name in built.vectors if name not in of_text]
    assert of_text
    if own_rate is None:
        assert groups == [list(built.vectors)]
        assert built.rates() == {"lr": 1e-2}
    else:
        assert groups == [others, of_text]
        assert built.rates() == {"lr": 1e-2, "lr_text_encoder": own_rate}


def test_the_moving_average_is_what_is_saved(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--use_ema", "--ema_decay", 0.5, "--checkpointing_steps", 1, "--no-avf"))
    run = RunFolder(tmp_path / "run")
    states = [torch.load(run.checkpoint(s) / "state.pt", weights_only=True)["vectors"] for s in run.checkpoints()]
    assert len(states) == 3
    before, after = (vectors(run.checkpoint(s)) for s in (3, 4))
    for name, average in after.items():
        raw = next(v for key, v in states[-1].items() if canonical_name(key) == name)
        # decay min(0.5, (1 + n) / (10 + n)) with n the averagings before this one
        decay = min(0.5, 4 / 13)
        torch.testing.assert_close(average, decay * before[name] + (1 - decay) * raw)


def test_prodigy_finds_its_rate_and_resumes_bit_for_bit(arguments, tmp_path):
    flags = ("--optimizer", "prodigy", "--learning_rate", 1, "--max_train_steps", 8, "--checkpointing_steps", 3)
    main(arguments(tmp_path / "whole", *flags))
    whole, resumed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "resumed")
    rates = [entry["lr"] for entry in whole.read_log()]
    assert rates[-1] > 2 * rates[0] > 0
    shutil.copytree(whole.path, resumed.path)
    resumed.vectors.unlink()
    resumed.keep_checkpoints([3])
    main(["--resume_from_checkpoint", str(resumed.path)])
    assert resumed.vectors.read_bytes() == whole.vectors.read_bytes()


def test_prodigy_takes_one_factor_of_its_rate(arguments, tmp_path):
    flags = arguments(tmp_path / "run", "--optimizer", "prodigy", "--text_encoder_lr", 0.5)
    with pytest.raises(VectorFitError, match="--text_encoder_lr: prodigy finds one rate for everything"):
        main(flags)
    at = flags.index("--learning_rate")
    ((prepared,), _) = setup.prepare([*flags[:at], *flags[at + 2 : -2]])
    assert prepared.config.learning_rate == 1.0


@pytest.mark.parametrize(
    ("flags", "shape"),
    [
        (("cosine_with_restarts", "--lr_num_cycles", 2), lambda t: 0.5 * (1 + math.cos(math.pi * (2 * t % 1)))),
        (("polynomial", "--lr_power", 2.0), lambda t: (1 - t) ** 2),
    ],
    ids=["cosine_with_restarts", "polynomial"],
)
def test_schedules_have_their_closed_forms(arguments, tmp_path, flags, shape):
    main(arguments(tmp_path / "run", "--max_train_steps", 8, "--lr_scheduler", *flags))
    rates = [entry["lr"] for entry in RunFolder(tmp_path / "run").read_log()]
    expected = [1e-2 * shape(step / 8) for step in range(8)]
    assert rates == pytest.approx(expected, rel=1e-3, abs=2e-7)


def test_the_rate_stands_still_while_the_scaler_skips_updates(arguments, tmp_path, monkeypatch):
    """A real scaler of fp16, on the CPU, that begins with a scale at which every gradient overflows."""
    start = script.start

    def with_scaler(setup):
        accelerator = start(setup)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-110)
        return accelerator

    monkeypatch.setattr(script, "start", with_scaler)
    monkeypatch.setattr(optimization, "_fusing", lambda config: {})  # as in fp16, which this machine may not have
    plain = objective.per_sample_loss  # a steep loss: times the scale, its gradient is more than float32 holds
    monkeypatch.setattr(objective, "per_sample_loss", lambda *pair: 1e6 * plain(*pair))
    script.main(arguments(tmp_path / "run", "--lr_scheduler", "linear", "--no-avf", "--checkpointing_steps", 1))
    run = RunFolder(tmp_path / "run")
    log = run.read_log()
    assert [entry["grad_norm"] is None for entry in log] == [True, False, False, False]
    assert "Infinity" not in run.log.read_text()
    assert [entry["lr"] for entry in log] == pytest.approx([1e-2 * share for share in (1, 1, 0.75, 0.5)])
    states = [torch.load(run.checkpoint(step) / "state.pt", weights_only=True) for step in run.checkpoints()]
    assert [state["schedule"]["last_epoch"] for state in states] == [1, 2, 3]


@pytest.mark.parametrize(
    ("optimizer", "precision", "fused"),
    [("adamw", "bf16", True), ("adamw", "no", True), ("adamw", "fp16", None), ("prodigy", "bf16", None)],
)
def test_adamw_is_fused_where_a_skipped_update_can_still_be_told(arguments, tmp_path, optimizer, precision, fused):
    (prepared,), _ = setup.prepare(arguments(tmp_path / "run", "--optimizer", optimizer, "--learning_rate", 1))
    config = replace(prepared.config, mixed_precision=precision)
    built = optimization.build(config, adapted(load(prepared.base), train_text_encoder=True))
    assert {group.get("fused") for group in built.optimizer.param_groups} == {fused}
