"""The best checkpoint: candidates, the rule, the files, and what happens where the encoders are out of reach."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vectorfit as vf
from eval import selection
from eval.__main__ import main
from eval.balance import Scores
from eval.selection import Candidate, best, candidates
from vectorfit import VectorFitError
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_training.runs import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the starter with two checkpoints."""
    from train_dreambooth_vectorfit import main as train

    folder = tmp_path_factory.mktemp("runs") / "clock"
    flags = {"--instance_dir": ROOT / "examples" / "clock", "--base_model": "starter", "--output_dir": folder}
    flags |= {"--max_train_steps": 4, "--checkpointing_steps": 2, "--prior": "none", "--num_validation_images": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vf_dreambooth.run_writer.write_training", lambda *_: [])  # figures nobody looks at here
        train([str(part) for pair in flags.items() for part in pair])
    return RunFolder(folder)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    presets = StableDiffusion.presets
    monkeypatch.setitem(presets, "starter", replace(presets["starter"], num_inference_steps=2, resolution=64))


def files(run):
    """What a selection must not touch: everything but its own folder."""
    return {
        path: path.read_bytes()
        for path in sorted(run.path.rglob("*"))
        if path.is_file() and selection.FOLDER not in path.parts
    }


def scores(balance):
    return Scores(0.5, 0.5, 0.5, 0.1, balance, balance, balance, balance)


def test_the_highest_balance_is_picked_then_the_plain_strength_then_the_earlier_step():
    offered = [Candidate(step, strength, Path()) for step in (100, 200) for strength in (0.8, 1.0, 1.2)]
    assert best([(one, scores(0.1 * n)) for n, one in enumerate(offered)]) == offered[5]
    assert best([(one, scores(0.5)) for one in offered]) == offered[1]
    assert best([(one, scores(0.6 if one.strength != 1 else 0.5)) for one in offered]).strength in (0.8, 1.2)


def test_every_kept_checkpoint_is_offered_at_every_strength(trained):
    found = [(one.step, one.strength) for one in candidates(trained, (0.5, 1.0))]
    assert found == [(2, 0.5), (2, 1.0), (4, 0.5), (4, 1.0)]
    with pytest.raises(VectorFitError, match=r"--strengths: got 0, expected numbers above 0"):
        candidates(trained, (1.0, 0))


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(VectorFitError, match="has no checkpoints to choose from"):
        main(["select", str(tmp_path)])


def test_a_dry_run_shows_the_trade_off_and_a_second_one_draws_nothing_anew(trained, capsys, monkeypatch):
    before = files(trained)
    main(["select", str(trained.path), "--dry_run", "--strengths", "0.5", "1"])
    told = capsys.readouterr().out
    assert "stays as it is" in told
    assert told.count("picked") == 1
    assert files(trained) == before
    result = json.loads((trained.path / "selection" / "selection.json").read_text())
    assert len(result["candidates"]) == 4
    highest = max(result["candidates"], key=lambda one: one["balance"])
    assert result["picked"] == {"step": highest["step"], "strength": highest["strength"]}
    assert all(0 <= one["balance"] <= 1 for one in result["candidates"])
    with Image.open(trained.path / "selection" / "trade_off.png") as picture:
        assert picture.width >= 900
        assert picture.height > 6 * 128  # a row each for photos, base and four candidates

    def draw(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(selection, "generate_images", draw)
    main(["select", str(trained.path), "--dry_run", "--strengths", "0.5", "1"])
    again = json.loads((trained.path / "selection" / "selection.json").read_text())
    assert again == result


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_what_is_picked_becomes_the_subject_file_and_the_others_stay(trained, tmp_path, strength):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, run.path, ignore=shutil.ignore_patterns("selection"))
    last, kept = run.vectors.read_bytes(), {step: f / "vectors.safetensors" for step, f in run.checkpoints().items()}
    contents = {step: file.read_bytes() for step, file in kept.items()}
    assert selection.apply(run, 2, strength)
    assert (run.path / "selection" / "before.safetensors").read_bytes() == last
    assert {step: file.read_bytes() for step, file in kept.items()} == contents
    mine, source = load_file(run.vectors), load_file(kept[2])
    assert mine.keys() == source.keys()
    assert all(torch.equal(vector, strength * source[name]) for name, vector in mine.items())
    assert vf.read_metadata(run.vectors)["vectorfit.training"] == vf.read_metadata(kept[2])["vectorfit.training"]
    assert not selection.apply(run, 2, strength)  # it is that already
    assert selection.apply(run, 4, 1.0)
    assert run.vectors.read_bytes() == last
    assert (run.path / "selection" / "before.safetensors").read_bytes() == last


def test_without_encoders_it_says_so_and_leaves_all_as_it_was(trained, monkeypatch, tmp_path):
    before = files(trained)
    shown = {path: path.read_bytes() for path in (trained.path / "selection").rglob("*") if path.is_file()}
    missing = ("--dino_weights", str(tmp_path / "dino.pth"), "--protocol", "dreambench-2023")
    with pytest.raises(
        VectorFitError, match=r"nothing is selected, all stays as it is\. --dino_weights .*no such file"
    ):
        main(["select", str(trained.path), *missing])
    assert files(trained) == before
    assert {path: path.read_bytes() for path in shown} == shown


def test_photos_that_moved_are_asked_for(trained, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, run.path)
    config = run.read_config()
    config["settings"]["instance_data_dir"] = str(tmp_path / "gone")
    run.write_config(config)
    with pytest.raises(VectorFitError, match=r"no photos of the subject.*--reference"):
        main(["select", str(run.path)])


def test_what_judges_a_choice_shares_no_prompt_and_no_seed_with_it(trained):
    base = selection.base_of(candidates(trained)[0].file)
    choosing, judging = (selection.Artist(trained, base, "cpu", others=others) for others in (False, True))
    for name, count in (("of_subject", selection.PROMPTS), ("of_class", selection.CLASS_PROMPTS)):
        mine, others = getattr(choosing, name), getattr(judging, name)
        assert len(set(mine)) == len(set(others)) == count
        assert not set(mine) & set(others)
    drawn = selection.PROMPTS + selection.CLASS_PROMPTS
    assert choosing.first_seed + drawn <= judging.first_seed
