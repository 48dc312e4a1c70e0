"""Many runs scored at once: one result, exactly that of `eval score`, and what fails is named."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval import fleet, generation
from eval.__main__ import main
from eval.fleet_worker import Evaluation, Worker
from eval.protocols import PROTOCOLS
from tests.eval.test_fleet_worker import PROMPTS, write_run
from vectorfit import VectorFitError
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_training.fleet import actors, outcomes, start
from vf_training.storage import Storage

SUBJECTS = 6


@pytest.fixture(autouse=True)
def _in_this_process(request, monkeypatch):
    """One worker without Ray, which draws in one step, two pictures of the class."""
    if not request.node.get_closest_marker("slow"):
        presets = StableDiffusion.presets
        monkeypatch.setitem(presets, "starter", replace(presets["starter"], num_inference_steps=1))
        monkeypatch.setattr(generation, "SHARED", generation.SHARED[:2])
        monkeypatch.setattr(fleet, "work_through", in_turn)


def in_turn(jobs, worker, given, arguments):
    one = worker(*given)
    return [one.work(job) for job in jobs]


def run(tmp_path, *more):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a {} in the snow\n")
    flags = ["--protocol", "starter", "--prompts", prompts, "--images_per_prompt", "1", *more]
    main(["fleet", str(tmp_path / "runs"), "--reference", str(tmp_path / "photos"), *map(str, flags)])


def score(tmp_path, names, out, *more):
    folders = [str(tmp_path / "runs" / name) for name in names]
    flags = ["--reference", tmp_path / "photos", "--protocol", "starter", "--out", out, *more]
    main(["score", "--generated", *folders, *map(str, flags)])


def test_runs_are_the_folders_with_a_config_by_name(tmp_path):
    for name in ("dog", "cat"):
        write_run(tmp_path / "runs", name)
    (tmp_path / "runs" / "class_images").mkdir()
    root, photos = f"{tmp_path}/runs", f"{tmp_path}/photos"
    found = fleet.runs_in(f"{root}/", f"{photos}/")
    assert [(r.name, r.subject, r.url, r.photos) for r in found] == [
        (name, name, f"{root}/{name}", f"{photos}/{name}") for name in ("cat", "dog")
    ]
    shutil.rmtree(tmp_path / "runs" / "cat")
    assert fleet.runs_in(root, photos)[0].photos == f"{photos}/dog"
    assert fleet.runs_in(root, f"{photos}/dog/")[0].photos == f"{photos}/dog"  # one run's photos may lie there
    shutil.copytree(tmp_path / "runs" / "dog", tmp_path / "runs" / "dog-2")
    with pytest.raises(VectorFitError, match="dog and dog-2 are both of dog; score them separately"):
        fleet.runs_in(root, photos)
    with pytest.raises(VectorFitError, match="has no run folders, expected those of a fleet"):
        fleet.runs_in(f"{root}/class_images", photos)


def test_the_result_and_what_is_printed_are_those_of_eval_score(tmp_path, capsys):
    for name, subject, seconds in (("tea", "teapot", 2.5), ("dog", "dog", 4.25)):
        write_run(tmp_path / "runs", name, subject, seconds)
    run(tmp_path)
    out, ours = tmp_path / "runs" / "scores.json", capsys.readouterr().out.splitlines()
    by_fleet = out.read_bytes()
    assert [line.split()[:2] for line in ours[:2]] == [["dog", "scored"], ["tea", "scored"]]
    assert ours[2] == "2 subjects: 2 scored"
    score(tmp_path, ("dog", "tea"), out)
    assert out.read_bytes() == by_fleet
    assert capsys.readouterr().out.splitlines() == ours[3:]
    result = json.loads(by_fleet)
    assert result["facts"]["seconds"] == 3.375
    assert set(result["overall"]) >= {"dino", "clip_i", "clip_t", "pres", "drift", "photos", "base"}


def test_a_result_elsewhere_names_the_pictures_as_seen_from_there(tmp_path, capsys):
    for name in ("cat", "dog"):
        write_run(tmp_path / "runs", name)
    run(tmp_path, "--no-class_images")
    out = tmp_path / "results" / "all.json"
    run(tmp_path, "--no-class_images", "--method", "ours", "--out", out)
    assert "2 subjects: 2 found finished" in capsys.readouterr().out
    by_fleet = out.read_bytes()
    score(tmp_path, ("cat", "dog"), out, "--method", "ours")
    assert out.read_bytes() == by_fleet
    assert b"../runs/dog/evaluation" in by_fleet


def test_a_subject_that_fails_is_named_and_the_others_are_scored(tmp_path, capsys):
    for name in ("dog", "lost"):
        write_run(tmp_path / "runs", name)
    (tmp_path / "runs" / "lost" / "vectors.safetensors").unlink()
    with pytest.raises(VectorFitError, match="1 of 2 subjects failed: lost"):
        run(tmp_path, "--no-class_images", "--json")
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result == json.loads((tmp_path / "runs" / "scores.json").read_text())
    assert list(result["subjects"]) == ["dog"]
    assert result["deviations"] == ["1 of 2 subjects are missing: lost"]
    assert "lost  failed" in told.err
    (tmp_path / "runs" / "scores.json").unlink()
    (tmp_path / "runs" / "dog" / "vectors.safetensors").unlink()
    with pytest.raises(VectorFitError, match="2 of 2 subjects failed: dog, lost"):
        run(tmp_path, "--no-class_images")
    assert not (tmp_path / "runs" / "scores.json").exists()


def test_runs_on_a_storage_are_merged_there(memory, tmp_path):
    write_run(tmp_path / "runs", "dog")
    memory.at("dog").keep(tmp_path / "runs" / "dog")
    (tmp_path / "prompts.txt").write_text("a {} in the snow\n")
    flags = ["--protocol", "starter", "--prompts", str(tmp_path / "prompts.txt"), "--no-class_images"]
    main(["fleet", "memory://runs", "--reference", str(tmp_path / "photos"), *flags])
    (subject,) = json.loads(memory.read("scores.json"))["subjects"].values()
    assert subject["folder"] == "dog/evaluation"
    assert subject["reference_files"][0] == f"file://{tmp_path}/photos/dog/00.png"
    assert subject["n"] == 4


def test_the_flags_reach_the_workers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(fleet, "work_through", lambda jobs, worker, given, arguments: seen.append(given[0]) or [])
    write_run(tmp_path / "runs", "dog")
    flags = ["--with_token", "--allow_missing", "--seed", 7, "--base_model", "starter", "--device", "cpu"]
    run(tmp_path, *flags)
    run(tmp_path, "--prompts", "live")
    own, live = seen
    assert [prompt.form for prompt in own.prompts] == ["a {} in the snow"]
    assert live == Evaluation(PROTOCOLS["starter"], "live", images_per_prompt=1)
    assert own.protocol.text == "with-token"
    assert (own.allow_missing, own.seed, own.base_model, own.device) == (True, 7, "starter", "cpu")


def test_results_that_were_measured_otherwise_are_not_merged(tmp_path):
    runs = [write_run(tmp_path / "runs", name) for name in ("cat", "dog")]
    for one in runs:
        Worker(Evaluation(PROTOCOLS["starter"], PROMPTS, 1, class_images=False)).work(one)
    file = Path(runs[1].url, "evaluation", "scores.json")
    result = json.loads(file.read_text())
    result["environment"]["torch"] = "1.0"
    file.write_text(json.dumps(result))
    folder = Storage(str(tmp_path))
    merged = fleet.merged(runs, folder, Evaluation(PROTOCOLS["starter"]))
    assert merged["environment"]["torch"].startswith("1.0, ")
    result["encoders"]["clip"]["weights_sha256"] = "0"
    file.write_text(json.dumps(result))
    with pytest.raises(VectorFitError, match="cat and dog: scored with different encoders"):
        fleet.merged(runs, folder, Evaluation(PROTOCOLS["starter"]))
    facts = file.with_name("facts.json")
    facts.write_text(facts.read_text().replace('"vectorfit"', '"lora"'))
    with pytest.raises(VectorFitError, match="trainings with lora and vectorfit; score each method separately"):
        fleet.merged(runs, folder, Evaluation(PROTOCOLS["starter"]))
    file.unlink()
    with pytest.raises(VectorFitError, match="dog: its scores are gone; run the same command again"):
        fleet.merged(runs, folder, Evaluation(PROTOCOLS["starter"]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workers", "0"), "--workers: got 0, expected at least 1"),
        (("--images_per_prompt", "0"), "--images_per_prompt: got 0, expected at least 1"),
        (("--protocol", "dino"), "expected one of dreambench-2023"),
        (("--out", "/dev/null/scores.json"), "cannot be written .*give a folder with rights"),
    ],
)
def test_mistakes_are_told_before_the_first_run(tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(fleet, "work_through", lambda *_: pytest.fail("began"))
    write_run(tmp_path / "runs", "dog")
    with pytest.raises(VectorFitError, match=message):
        run(tmp_path, *flags)


@pytest.mark.slow
def test_all_runs_are_scored_once_although_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray")
    for number in range(SUBJECTS):
        write_run(tmp_path / "runs", f"dog{number}")
    (tmp_path / "runs" / "dog3" / "vectors.safetensors").unlink()
    runs = fleet.runs_in(str(tmp_path / "runs"), str(tmp_path / "photos"))
    evaluation = Evaluation(PROTOCOLS["starter"], PROMPTS, 1, class_images=False)
    arguments = SimpleNamespace(workers=2, gpus=0, cpus=1, retries=2)
    ray, found, killed = start(None, 2, 1), [], 0
    try:
        workers = actors(ray, Worker, [evaluation], len(runs), arguments)
        for outcome in outcomes(ray, workers, runs):
            found.append(outcome)
            if not killed and outcome.state == "scored":  # its next run has begun
                killed = outcome.worker
                threading.Timer(1, os.kill, (killed, signal.SIGKILL)).start()
                time.sleep(2)
        written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*") if path.is_file()}
        again = list(outcomes(ray, workers, runs))
    finally:
        ray.shutdown()
    assert sorted(outcome.name for outcome in found) == [one.name for one in runs]
    states = {outcome.name: outcome.state for outcome in found}
    assert states.pop("dog3") == "failed"
    assert set(states.values()) <= {"scored", "found finished"}  # found: killed after its last write
    assert len({outcome.worker for outcome in found} - {killed}) >= 2  # one was started in its place
    assert {outcome.state for outcome in again if outcome.name != "dog3"} == {"found finished"}
    scores = {path: time_of for path, time_of in written.items() if path.suffix in (".png", ".json")}
    assert {path: path.stat().st_mtime_ns for path in scores if path.name != "facts.json"} == {
        path: time_of for path, time_of in scores.items() if path.name != "facts.json"
    }
    ended = [one for one in runs if one.name in states]
    merged = fleet.merged(ended, Storage(str(tmp_path / "runs")), evaluation)
    score(tmp_path, sorted(states), tmp_path / "runs" / "scores.json")
    by_score = json.loads((tmp_path / "runs" / "scores.json").read_text())
    assert merged == by_score
