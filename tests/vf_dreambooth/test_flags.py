"""What the flags do, each one: what other scripts' users expect of their names."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from train_dreambooth_vectorfit import main
from vf_training.runs import RunFolder


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def differs(one: Path, other: Path) -> bool:
    return any(not torch.equal(vector, vectors(other)[name]) for name, vector in vectors(one).items())


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
    heights = [Image.open(RunFolder(tmp_path / name).sample_grid(0)).height for name in ("four", "five")]
    assert heights[1] > heights[0] * 1.2
