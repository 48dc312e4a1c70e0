"""What the flags do, each one: what other scripts' users expect of their names."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vectorfit.fingerprint import canonical_name
from vectorfit.runs import RunFolder
from vf_dreambooth import objective
from vf_dreambooth.cli import build_parser
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.data import Latents, Sampler
from vf_dreambooth.images import CROPS, views
from vf_dreambooth.objective import combine, drift, min_snr_weights
from vf_dreambooth.setup import prepare

TESTS = Path(__file__).parent


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def differs(one: Path, other: Path) -> bool:
    return any(not torch.equal(vector, vectors(other)[name]) for name, vector in vectors(one).items())


def test_every_flag_is_in_help_in_a_group_and_used_by_a_test():
    parser = build_parser("x")
    text = " ".join(path.read_text(encoding="utf-8") for path in TESTS.glob("*.py"))
    grouped = {
        flag for group in parser._action_groups[2:] for action in group._group_actions for flag in action.option_strings
    }
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name}" in grouped
        assert f"--{field.name}" in parser.format_help().replace("\n", " ")
        names = (f"--{field.name}", f"--no-{field.name}", *field.metadata["flags"], f'"{field.name}"')
        assert any(re.search(rf"{re.escape(name)}(?!\w)", text) for name in names), field.name


def test_the_trigger_is_what_the_prompt_says(arguments, tmp_path, capsys):
    main(arguments(tmp_path / "run", "--instance_prompt", "a photo of ohwx dog"))
    assert "warning      the prompt does not say the token 'sks'" in capsys.readouterr().out
    assert vf.read_metadata(tmp_path / "run/vectors.safetensors")["modelspec.trigger_phrase"] == "a photo of ohwx dog"
    main(arguments(tmp_path / "named", "--instance_prompt", "a photo of ohwx dog", "--token", "ohwx"))
    assert "warning" not in capsys.readouterr().out
    assert vf.read_metadata(tmp_path / "named/vectors.safetensors")["modelspec.trigger_phrase"] == "ohwx dog"


def test_a_flag_over_a_recorded_run_has_its_consequences(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--prior", "drift"))
    config = ("--config", str(tmp_path / "run" / "config.json"))

    def settled(*flags):
        ((setup,), _) = prepare([*config, *flags, "--output_dir", str(tmp_path / "new")])
        return setup.config

    assert settled("--prior", "class_images").drift_weight is None
    renamed = settled("--token", "zwx", "--class_noun", "cat")
    assert (renamed.instance_prompt, renamed.class_prompt) == ("a photo of zwx cat", "a photo of a cat")
    longer = settled("--max_train_steps", "200")
    assert (longer.avf_first_step, longer.avf_every, longer.checkpointing_steps) == (70, 6, 50)
    assert settled().avf_first_step == 2


def test_a_photos_own_prompt_is_used(arguments, photos, tmp_path, monkeypatch, capsys):
    (photos / "1.txt").write_text("sks dog\n on the beach\n")
    seen = []
    original = objective.encode_prompts
    monkeypatch.setattr(objective, "encode_prompts", lambda t, prompts: seen.extend(prompts) or original(t, prompts))
    main(arguments(tmp_path / "run"))
    assert seen == ["a photo of sks dog", "sks dog on the beach", "a photo of a dog"]
    out = capsys.readouterr().out
    assert "1 with a prompt of their own" in out
    assert "warning" not in out
    (photos / "1.txt").write_text("a dog on the beach")
    main(arguments(tmp_path / "other"))
    assert "1 prompts of photos do not say 'sks'" in capsys.readouterr().out


def test_the_prompt_travels_with_its_photo(arguments, photos, tmp_path):
    (photos / "2.txt").write_text("sks dog in the snow")

    pairs = set()
    original = objective.Objective._prompt_index

    def prompt_index(self, batch):
        index = original(self, batch)
        pairs.update(zip(batch.picture.tolist(), batch.is_class.tolist(), index.tolist(), strict=True))
        return index

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective.Objective, "_prompt_index", prompt_index)
        main(arguments(tmp_path / "run"))
    assert pairs == {
        *((photo, False, 0) for photo in (0, 1)),
        (2, False, 1),
        *((image, True, 2) for image in range(3)),
    }


def test_views_of_a_photo():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 48, 3), dtype=np.uint8))

    def of(**choices):
        return [np.asarray(v) for v in views(image, 16, generator=torch.Generator().manual_seed(0), **choices)]

    (centre,) = of(center_crop=True, random_flip=False)
    both = of(center_crop=True, random_flip=True)
    assert (both[0] == centre).all()
    assert (both[1] == centre[:, ::-1]).all()
    crops = of(center_crop=False, random_flip=False)
    assert len({crop.tobytes() for crop in crops}) == CROPS
    assert len(of(center_crop=False, random_flip=True)) == 2 * CROPS


@pytest.mark.parametrize(
    "flags",
    [
        ("--random_flip",),
        ("--no-center_crop",),
        ("--snr_gamma", 5.0),
        ("--text_encoder_lr", 1e-4),
        ("--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", 3),
        ("--use_ema", "--ema_decay", 0.5),
        ("--prior", "drift", "--drift_weight", 10.0),
        ("--prior", "none"),
        ("--prior_loss_weight", 0.1),
        ("--adam_beta1", 0.5),
        ("--adam_weight_decay", 0.5),
        ("--max_grad_norm", 1e-3, "--adam_epsilon", 1),
        ("--token", "zwx"),
        ("--class_prompt", "an animal"),
        ("--instance_prompt", "my dog"),
        ("--seed", 1),
        ("--resolution", 24),
    ],
    ids=lambda flags: flags[0].strip("-"),
)
def test_a_choice_changes_what_is_trained(arguments, whole, tmp_path, flags):
    if "--max_grad_norm" in flags:
        main(arguments(whole := tmp_path / "plain", "--max_grad_norm", 1e3, "--adam_epsilon", 1))
    main(arguments(tmp_path / "changed", *flags))
    assert differs(whole, tmp_path / "changed")


@pytest.mark.parametrize(
    "flags",
    [
        ("--sample_batch_size", 2),
        ("--checkpointing_steps", 1),
        ("--num_validation_images", 1, "--validation_prompt", "sks dog in the jungle"),
        ("--class_noun", "dog"),
    ],
    ids=lambda flags: flags[0].strip("-"),
)
def test_a_choice_that_changes_only_the_way(arguments, whole, tmp_path, flags):
    changed = tmp_path / "changed" / "run"  # with class images of its own
    main(arguments(changed, *flags))
    first, second = vectors(whole), vectors(changed)
    # Pictures sampled in other batches differ by rounding.
    close = {"atol": 1e-4, "rtol": 1e-2} if "--sample_batch_size" in flags else {"atol": 0, "rtol": 0}
    for name, vector in first.items():
        torch.testing.assert_close(second[name], vector, **close)


def test_a_further_prompt_gets_a_row_of_its_own(arguments, tmp_path):
    flags = ("--num_validation_images", 1, "--max_train_steps", 1)
    main(arguments(tmp_path / "four", *flags))
    main(arguments(tmp_path / "five", *flags, "--validation_prompt", "sks dog in the jungle"))
    heights = [Image.open(RunFolder(tmp_path / name).samples(0)).height for name in ("four", "five")]
    assert heights[1] > heights[0] * 1.2


def test_the_text_encoders_own_rate(arguments, tmp_path):
    # AdamW's first step moves a number by its rate, or by less where the gradient is next to nothing.
    main(arguments(tmp_path / "run", "--max_train_steps", 1, "--text_encoder_lr", 1e-4, "--no-avf"))
    moved = {"unet": 0.0, "text_encoder": 0.0}
    for name, vector in vectors(tmp_path / "run").items():
        model = name.split(".")[0]
        moved[model] = max(moved[model], vector.abs().max().item())
    assert moved == pytest.approx({"unet": 1e-2, "text_encoder": 1e-4}, rel=1e-2)


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


def test_min_snr_weights_both_halves_in_closed_form():
    schedule, gamma = DDPMScheduler(), 5.0
    timesteps = torch.tensor([10, 400, 900])
    snr = schedule.alphas_cumprod[timesteps] / (1 - schedule.alphas_cumprod[timesteps])
    expected = [min(s, gamma) / s for s in snr.tolist()]
    torch.testing.assert_close(min_snr_weights(schedule, timesteps, gamma), torch.tensor(expected))
    velocity = min_snr_weights(DDPMScheduler(prediction_type="v_prediction"), timesteps, gamma)
    torch.testing.assert_close(velocity, torch.tensor([min(s, gamma) / (s + 1) for s in snr.tolist()]))
    # One weight per sample, class or not, so a batch of one photo and one class image has two.
    losses = torch.tensor([1.0, 1.0, 1.0]) * velocity
    total, _, _ = combine(losses, torch.tensor([False, True, True]), 1.0)
    assert total == pytest.approx(float(velocity[0] + velocity[1:].mean()))


def test_drift_is_the_squared_norm_of_the_weights_change():
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 9)).double()
    before = [p.clone() for p in model.parameters()]
    vf.inject(model)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.normal_()
    expected = drift(vf.vector_parameters(model).values())
    vf.merge(model)
    base = [getattr(layer, name) for layer in model for name in ("weight", "bias")]
    change = sum(((after - first) ** 2).sum() for after, first in zip(base, before, strict=True))
    torch.testing.assert_close(change.float(), expected, rtol=1e-5, atol=1e-5)


def test_drift_needs_no_class_images_and_holds_the_vectors_back(arguments, tmp_path):
    norms = []
    for weight in (0, 100):
        main(arguments(tmp_path / f"{weight}", "--prior", "drift", "--drift_weight", weight, "--max_train_steps", 8))
        norms.append(float(drift(vectors(tmp_path / f"{weight}").values())))
    assert norms[1] < 0.5 * norms[0]
    assert not (tmp_path / "class_images").exists()
    entry = RunFolder(tmp_path / "0").read_log()[-1]
    assert entry["prior_loss"] > 0
    assert entry["loss"] == pytest.approx(entry["instance_loss"])


def test_the_other_names_of_the_prior(arguments, tmp_path):
    main(arguments(tmp_path / "a", "--no-with_prior_preservation"))
    main(arguments(tmp_path / "b", "--prior", "none"))
    assert not differs(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "class_images").exists()


def test_a_users_own_class_images(arguments, photos, tmp_path):
    own = tmp_path / "dogs"
    own.mkdir()
    for index in range(2):
        Image.new("RGB", (16, 16), (200 * index, 50, 90)).save(own / f"{index}.png")
    main(arguments(tmp_path / "run", "--class_data_dir", own))
    assert not (tmp_path / "class_images").exists()
    main(arguments(tmp_path / "sampled"))
    assert differs(tmp_path / "run", tmp_path / "sampled")
    assert sorted(p.name for p in own.iterdir()) == ["0.png", "1.png"]


def test_several_subjects_are_one_run_each_and_share_class_images(arguments, photos, tmp_path, capsys):
    several = tmp_path / "several"
    for name in ("dog1", "dog2"):
        (several / name).mkdir(parents=True)
        for path in photos.iterdir():
            (several / name / path.name).write_bytes(path.read_bytes())
    main(arguments(tmp_path / "out", "--instance_dir", several))
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["class_images", "dog1", "dog2"]
    assert len(list((out / "class_images").iterdir())) == 1
    assert not differs(out / "dog1", out / "dog2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("subject ")]
    assert len(lines) == 2
    assert "sks dog: loss" in lines[0]
    (out / "dog2" / "vectors.safetensors").unlink()
    main(arguments(tmp_path / "out", "--instance_dir", several, "--resume_from_checkpoint", "latest"))
    assert not differs(out / "dog1", out / "dog2")
    assert "finished before" in capsys.readouterr().out


def test_one_bad_subject_stops_all_before_any_is_trained(arguments, photos, tmp_path):
    several = tmp_path / "several"
    for name in ("dog1", "dog2"):
        (several / name).mkdir(parents=True)
        (several / name / "0.png").write_bytes((photos / "0.png").read_bytes())
    (several / "dog2" / "1.png").write_bytes(b"x")
    with pytest.raises(vf.VectorFitError, match=r"dog2/1\.png"):
        main(arguments(tmp_path / "out", "--instance_dir", several))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(arguments, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(arguments(tmp_path / "run", "--dry_run"))
    out = capsys.readouterr().out
    assert re.search(r"trainable    .*[\d,]+ of [\d,]+ parameters", out)
    assert re.search(r"steps        4 of \d+\.\d\d s", out)
    assert re.search(r"memory       \d+\.\d GiB", out)
    assert "nothing was trained or written" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog"]


def test_accelerates_own_settings_are_taken(arguments, tmp_path, monkeypatch):
    main(arguments(tmp_path / "flag", "--gradient_accumulation_steps", 2, "--mixed_precision", "bf16"))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    main(arguments(tmp_path / "launched", "--mixed_precision", "auto"))
    assert not differs(tmp_path / "flag", tmp_path / "launched")
    settings = RunFolder(tmp_path / "launched").read_config()["settings"]
    assert (settings["gradient_accumulation_steps"], settings["mixed_precision"]) == (2, "bf16")


def test_the_sampler_draws_every_view():
    latents = Latents(torch.arange(6.0).view(6, 1, 1, 1), torch.zeros(6, 1, 1, 1), views=2)
    draw = Sampler(latents, None, batch_size=3, global_batch_size=3, num_timesteps=10, seed=0)
    for step in range(1, 20):
        batch = draw.batch(step)
        assert ((batch.latents.flatten() // 2).long() == batch.picture).all()
        assert sorted(batch.picture.tolist()) == [0, 1, 2]
    shown = {float(value) for step in range(1, 20) for value in draw.batch(step).latents.flatten()}
    assert shown == {0, 1, 2, 3, 4, 5}
