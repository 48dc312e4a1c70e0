"""The commands, on the starter: generate, score, report, compare, selfcheck."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eval import manifest
from eval.__main__ import main
from eval.generation import facts_of, task_of
from eval.selfcheck import EXPECTED
from tests.eval.pictures import noise
from vectorfit import VectorFitError
from vf_dreambooth.families.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A subject trained for four steps on the starter."""
    from train_dreambooth_vectorfit import main as train

    folder = tmp_path_factory.mktemp("runs") / "clock"
    flags = {"--instance_dir": ROOT / "examples" / "clock", "--base_model": "starter", "--output_dir": folder}
    flags |= {"--max_train_steps": 4, "--prior": "none", "--num_validation_images": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vf_dreambooth.run_writer.write_training", lambda *_: [])  # figures nobody looks at here
        train([str(part) for pair in flags.items() for part in pair])
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a {} in the snow\na red {}\n")
    return path


def generate(*arguments):
    """`eval generate` of small pictures with few denoising steps."""
    with pytest.MonkeyPatch.context() as patch:
        presets = StableDiffusion.presets
        patch.setitem(presets, "starter", replace(presets["starter"], num_inference_steps=4, resolution=64))
        main(["generate", *map(str, arguments)])


@pytest.fixture(scope="module")
def generated(run, prompts, tmp_path_factory):
    out = tmp_path_factory.mktemp("generated")
    generate(run, "--prompts", prompts, "--images_per_prompt", 2, "--out", out)
    return out


def test_generating_is_resumable_and_tells_what_each_picture_answers(generated, run, prompts, capsys):
    entries = manifest.read(generated)
    assert [(e.prompt, e.text) for e in entries if e.role == "subject"][::2] == [
        ("a sks clock in the snow", "a clock in the snow"),
        ("a red sks clock", "a red clock"),
    ]
    assert sum(e.role == "class" for e in entries) == sum(e.role == "base_class" for e in entries) == 10
    before = {entry.file: (generated / entry.file).read_bytes() for entry in entries}
    lost = [entry.file for entry in entries[::5]]
    for file in lost:
        (generated / file).unlink()
    capsys.readouterr()
    generate(run, "--prompts", prompts, "--images_per_prompt", 2, "--out", generated)
    assert f"{len(lost)} generated" in capsys.readouterr().out
    assert {file: (generated / file).read_bytes() for file in before} == before
    facts = json.loads((generated / "facts.json").read_text())
    assert facts["parameters"] == 38_752
    assert facts["bytes"] == (run / "vectors.safetensors").stat().st_size


def test_other_prompts_are_made_anew_and_those_of_before_not_scored(run, tmp_path, capsys):
    for words in ("in the snow", "on the moon"):
        (tmp_path / "p.txt").write_text(f"a {{}} {words}\n")
        flags = ["--prompts", str(tmp_path / "p.txt"), "--images_per_prompt", "1", "--no-class_images"]
        generate(run, *flags, "--out", tmp_path / "out")
        assert "1 generated" in capsys.readouterr().out
        assert [entry.prompt for entry in manifest.read(tmp_path / "out")] == [f"a sks clock {words}"]
    with pytest.raises(VectorFitError, match="with its own --out"):
        main(["generate", str(run), str(run / "vectors.safetensors"), "--out", str(tmp_path / "both")])


def score(generated, out, *more):
    main(["score", "--generated", str(generated), "--protocol", "starter", "--out", str(out), *map(str, more)])
    return json.loads(out.read_text())


def test_scoring_reporting_and_comparing(generated, tmp_path, capsys):
    first = score(generated, tmp_path / "a.json", "--method", "four steps")
    assert "starter DINO" in capsys.readouterr().out
    again = score(generated, tmp_path / "b.json", "--method", "again")
    assert {**again, "method": ""} == {**first, "method": ""}
    subject = first["subjects"]["clock"]
    assert subject["n"] == 4
    assert set(first["overall"]) >= {"dino", "clip_i", "clip_t", "pres", "drift", "diversity"}
    assert first["overall"]["dino"]["percent_of_real"] == pytest.approx(
        100 * first["overall"]["dino"]["mean"] / subject["real"]["dino"]["without_self"], abs=1e-3
    )
    capsys.readouterr()
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "four steps minus again, 4 pairs" in capsys.readouterr().out
    main(["report", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 10
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched from anywhere
    for words in ("four steps", "again", "PRES", "a sks clock in the snow", "most similar", "38,752"):
        assert words in page
    summary = json.loads((tmp_path / "report" / "report.json").read_text())
    assert summary["schema"] == "vectorfit-report/1"
    assert "8 images" in page  # the table of all, folded away
    lines = (tmp_path / "report" / "report.csv").read_text().splitlines()
    assert len(lines) == 9
    assert {line.split(",")[0] for line in lines[1:]} == {"vectorfit-report/1"}


def test_the_prompts_text_is_never_html(generated, tmp_path):
    result = score(generated, tmp_path / "a.json", "--method", "<script>alert(1)</script>")
    result["subjects"]["clock"]["images"][0]["prompt"] = "<img src=x onerror=alert(1)>"
    (tmp_path / "a.json").write_text(json.dumps(result))
    main(["report", str(tmp_path / "a.json"), "--out", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>" not in page
    assert "<img src=x" not in page


def test_plain_folders_are_scored_alone(tmp_path, capsys):
    for name, seeds in (("out", range(3)), ("real", range(2))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            noise(seed, 70).save(tmp_path / name / f"{seed}.png")
    result = score(tmp_path / "out", tmp_path / "r.json", "--reference", tmp_path / "real", "--json")
    assert json.loads(capsys.readouterr().out) == result
    assert result["overall"]["dino"]["n"] == 3
    with pytest.raises(VectorFitError, match="--reference: missing"):
        score(tmp_path / "out", tmp_path / "r.json")


@pytest.mark.slow
def test_two_processes_generate_and_score_what_one_does(generated, run, prompts, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29541",
        "-m",
        "eval",
    ]
    alone, out = tmp_path / "one", tmp_path / "two"
    more = ["--prompts", str(prompts), "--images_per_prompt", "2", "--no-class_images", "--out"]
    main(["generate", str(run), *more, str(alone)])
    output = subprocess.run(
        [*launch, "generate", str(run), *more, str(out)], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert output.stdout.count("4 generated") == 1
    mine, theirs = manifest.read(alone), manifest.read(out)
    assert [entry.key for entry in mine] == [entry.key for entry in theirs]
    for entry in mine:
        ours, other = (Image.open(folder / entry.file).convert("RGB") for folder in (alone, out))
        far = max(abs(a - b) for a, b in zip(ours.tobytes(), other.tobytes(), strict=True))
        assert far <= 2  # of 255: torchrun gives each process one thread, which rounds otherwise
    result = ["score", "--generated", str(generated), "--protocol", "starter", "--out", str(tmp_path / "two.json")]
    shared = {**os.environ, "VECTORFIT_CACHE": str(tmp_path / "cache")}
    output = subprocess.run([*launch, *result], check=True, cwd=ROOT, capture_output=True, text=True, env=shared)
    assert output.stdout.count("starter DINO") == 1  # only the main process scores; both have filled the cache
    one = score(generated, tmp_path / "one.json")
    assert json.loads((tmp_path / "two.json").read_text())["overall"] == one["overall"]


def test_selfcheck_finds_the_recorded_values(capsys):
    main(["selfcheck", "--protocol", "starter"])
    out = capsys.readouterr().out
    assert "12 subjects" in out
    assert "NOT near" not in out
    assert all(value is not None for value in EXPECTED["starter"].values())
    with pytest.raises(VectorFitError, match="one folder per subject"):
        main(["selfcheck", "--protocol", "starter", "--data", str(ROOT / "vectorfit")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "--generated", "nowhere", "--reference", "x", "--protocol", "starter"), "no such folder"),
        (("score", "--generated", ".", "--reference", "x", "--protocol", "dino"), "expected one of dreambench-2023"),
        (("generate", "x", "--images_per_prompt", "0"), "at least 1"),
        (("generate", "nowhere"), "cannot be read"),
        (("compare", "a.json", "b.json"), "cannot be read"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, message, capsys):
    with pytest.raises(VectorFitError, match=message):
        main(list(arguments))


def test_dreambenchs_lists_can_be_named(run, tmp_path):
    clock, live = task_of(run), task_of(run, wanted="live")
    assert [prompt.number for prompt in clock.prompts[:10]] == [prompt.number for prompt in live.prompts[:10]]
    assert len(clock.prompts) == 20
    assert len(live.prompts) == 12


def test_a_run_without_freezing_is_not_reported_as_vectorfit(run, tmp_path):
    settings = json.loads((run / "config.json").read_text())
    for method, avf, reported in (
        ("vectorfit", True, "vectorfit"),
        ("vectorfit", False, "no_avf"),
        ("l1", False, "l1"),
    ):
        settings["settings"] |= {"method": method, "avf": avf}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        (tmp_path / "vectors.safetensors").write_bytes((run / "vectors.safetensors").read_bytes())
        assert facts_of(tmp_path)["method"] == reported


def test_prompt_files_are_checked(tmp_path, run):
    for text, message in (("", "no line"), ("a dog\na {}\n", "1 of 2 lines without one {}")):
        (tmp_path / "p.txt").write_text(text)
        with pytest.raises(VectorFitError, match=message):
            main(["generate", str(run), "--prompts", str(tmp_path / "p.txt")])
