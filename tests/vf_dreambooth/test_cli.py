"""From a command line or a recorded run to settings."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.cli import build_parser
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.setup import prepare

TESTS = Path(__file__).parent


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def differs(one: Path, other: Path) -> bool:
    return any(not torch.equal(vector, vectors(other)[name]) for name, vector in vectors(one).items())


def test_every_flag_is_in_help_in_a_group_and_used_by_a_test():
    parser = build_parser("x")
    text = " ".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py"))
    grouped = {
        flag for group in parser._action_groups[2:] for action in group._group_actions for flag in action.option_strings
    }
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name}" in grouped
        assert f"--{field.name}" in parser.format_help().replace("\n", " ")
        names = (f"--{field.name}", f"--no-{field.name}", *field.metadata["flags"], f'"{field.name}"')
        assert any(re.search(rf"{re.escape(name)}(?!\w)", text) for name in names), field.name


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


def test_the_other_names_of_the_prior(arguments, tmp_path):
    main(arguments(tmp_path / "a", "--no-with_prior_preservation"))
    main(arguments(tmp_path / "b", "--prior", "none"))
    assert not differs(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "class_images").exists()


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


def test_a_mistake_does_not_hide_another_nor_invent_one(photos, tiny_base, tmp_path):
    given = ("--instance_dir", photos, "--base_model", tiny_base)
    lines = refused(*given, "--lr_scheduler", "staircase", "--lr_warmup_steps", 5, "--train_batch_size", 0)
    assert len(lines) == 2
    assert "--lr_scheduler: got 'staircase'" in lines[1]
    assert "--train_batch_size: got 0" in lines[0]
    unnamed = tmp_path / "images"
    photos.rename(unnamed)
    lines = refused("--instance_dir", unnamed, "--base_model", "./nowhere", "--output_dir", unnamed / "run")
    assert [("no such folder" in lines[0]), ("--class_noun" in lines[1]), ("--output_dir" in lines[2])] == [True] * 3


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("max_train_steps", "300", "expected a int"), ("token", 5, "expected a str"), ("seed", 1.5, "expected a int")],
)
def test_recorded_settings_of_the_wrong_type(photos, tiny_base, tmp_path, setting, value, message):
    (tmp_path / "config.json").write_text(json.dumps({"settings": {setting: value}}))
    flags = ("--config", tmp_path / "config.json", "--instance_dir", photos, "--base_model", tiny_base)
    (line,) = refused(*flags)
    assert f"{setting} = {value!r}" in line
    assert message in line


def test_a_run_folder_with_foreign_settings(photos, tiny_base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"settings": {"colour": "red"}}))
    flags = ("--instance_dir", photos, "--base_model", tiny_base, "--output_dir", tmp_path / "run")
    (line,) = refused(*flags, "--resume_from_checkpoint", "latest")
    assert "unknown setting 'colour'" in line


def test_photos_that_are_no_flag(photos, tiny_base):
    assert f"did you mean --instance_dir {photos}?" in refused(photos, "--base_model", tiny_base)[0]
    assert "--instance_dir: not given" in refused("--base_model", tiny_base)[0]


def test_the_printed_settings_are_complete_and_a_file_for_config(photos, tiny_base, tmp_path, capsys):
    given = ["--instance_dir", str(photos), "--base_model", str(tiny_base), "--max_train_steps", "7"]
    main([*given, "--output_dir", str(tmp_path / "run"), "--print_config"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["max_train_steps"] == 7
    assert printed["settings"]["avf_first_step"] == 2
    assert printed["settings"]["instance_prompt"] == "a photo of sks dog"
    assert not (tmp_path / "run").exists()
    (tmp_path / "config.json").write_text(json.dumps(printed))
    (setup,), _ = prepare(["--config", str(tmp_path / "config.json"), "--output_dir", str(tmp_path / "run")])
    assert setup.config.as_dict() == printed["settings"]
