"""Settings: ranges, contradictions, and what is inferred."""

import pytest

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.base_models import SD14, resolve
from vf_dreambooth.config import Circumstances, TrainConfig
from vf_training.options import completed


def test_settings_are_completed_from_folder_and_preset(tmp_path):
    config = completed(TrainConfig(instance_data_dir=str(tmp_path / "dog6")), Circumstances(resolve(SD14), "no", 1))
    assert (config.class_noun, config.instance_prompt, config.max_train_steps) == ("dog", "a photo of sks dog", 1000)
    assert (config.avf_first_step, config.avf_every, config.avf_num_freezes) == (350, 30, 10)
    assert config.learning_rate == 5e-5


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prior", "drift", "--with_prior_preservation"), "contradicts"),
        (("--prior", "none", "--class_data_dir", "x"), "uses no class images"),
        (("--drift_weight", "1"), "give --prior drift"),
        (("--text_encoder_lr", "1", "--no-train_text_encoder"), "the text encoder is not trained"),
        (("--hub_model_id", "me/dog"), "without --push_to_hub"),
        (("--snr_gamma", "0"), "more than 0"),
        (("--ema_decay", "0.5"), "give --use_ema"),
        (("--avf_every", "3", "--no-avf"), "freezes nothing"),
        (("--revision", "main"), "revisions are of hub models"),
        (("--resolution", "65"), "a multiple of 8"),
        (("--ema_decay", "1", "--use_ema"), "below 1"),
        (("--adam_beta2", "nan"), "below 1"),
        (("--checkpoints_total_limit", "0"), "at least 1"),
        (("--token", " "), "rare word"),
        (("--mixed_precision", "fp16"), "needs a GPU"),
        (("--seed", "-1"), "at least 0"),
    ],
)
def test_flags_out_of_range_or_contradictory(photos, tiny_base, flags, message):
    (line,) = refused("--instance_dir", photos, "--base_model", tiny_base, *flags)
    assert message in line
    assert flags[0] in line or flags[-1] in line


def test_the_trigger_is_what_the_prompt_says(arguments, tmp_path, capsys):
    main(arguments(tmp_path / "run", "--instance_prompt", "a photo of ohwx dog"))
    assert "warning      the prompt does not say the token 'sks'" in capsys.readouterr().out
    assert vf.read_metadata(tmp_path / "run/vectors.safetensors")["modelspec.trigger_phrase"] == "a photo of ohwx dog"
    main(arguments(tmp_path / "named", "--instance_prompt", "a photo of ohwx dog", "--token", "ohwx"))
    assert "warning" not in capsys.readouterr().out
    assert vf.read_metadata(tmp_path / "named/vectors.safetensors")["modelspec.trigger_phrase"] == "ohwx dog"
