"""A fleet's worker that scores: one base and one pair of encoders for many runs, and nothing is scored twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval import fleet_worker, manifest, scoring
from eval.__main__ import main
from eval.collection import gather
from eval.dreambench import Prompt
from eval.fleet_worker import Evaluation, Run, Worker, kept_result
from eval.protocols import PROTOCOLS
from tests.eval.pictures import flat, noise, toys
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_training.runs import RunFolder
from vf_training.storage import Storage

ROOT = Path(__file__).parents[2]
PROMPTS = (Prompt(1, "own", "a {} in the snow"),)
EVALUATION = Evaluation(PROTOCOLS["starter"], PROMPTS, images_per_prompt=1, class_images=False)


def write_run(runs, name, subject="dog", seconds=1.5):
    """A run folder as a training leaves it, with a shipped subject, and the photos of its name."""
    run, photos = RunFolder(runs / name), runs.parent / "photos" / name
    shutil.copytree(ROOT / "examples" / subject, photos)
    run.path.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "trained" / f"{subject}.safetensors", run.vectors)
    run.write_config({"settings": {"instance_data_dir": str(photos), "method": "vectorfit"}, "seconds": seconds})
    return Run(name, name, str(run.path), str(photos))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    presets = StableDiffusion.presets
    monkeypatch.setitem(presets, "starter", replace(presets["starter"], num_inference_steps=1))


def counted(monkeypatch, owner, name):
    """The calls of a function, which still does what it does."""
    calls, own = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **more: calls.append(given) or own(*given, **more))
    return calls


def pictures_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted((folder / "images").rglob("*.png"))}


def test_runs_are_scored_on_one_base_and_one_pair_of_encoders(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / "runs", name, name) for name in ("dog", "teapot")]
    bases = counted(monkeypatch, fleet_worker, "load_pipeline")
    encoders = counted(monkeypatch, fleet_worker.Encoders, "load")
    worker = Worker(EVALUATION)
    first = [worker.work(run) for run in runs]
    assert [(outcome.name, outcome.state) for outcome in first] == [("dog", "scored"), ("teapot", "scored")], first
    assert first[0].about.startswith("starter DINO 0.")
    assert (len(bases), len(encoders)) == (1, 1)
    for run in runs:  # each as if it had been drawn and scored alone
        own = tmp_path / "alone" / run.name
        (tmp_path / "prompts.txt").write_text("a {} in the snow\n")
        flags = ["--prompts", tmp_path / "prompts.txt", "--images_per_prompt", 1, "--no-class_images", "--out", own]
        main(["generate", *map(str, (run.url, *flags))])
        drawn = pictures_in(Path(run.url) / "evaluation")
        assert drawn == pictures_in(own)
        assert len(drawn) == 1
        score = ["--generated", f"{run.url}/evaluation", "--reference", run.photos, "--protocol", "starter"]
        main(["score", *score, "--out", f"{run.url}/evaluation/alone.json"])
        both = [Path(run.url, "evaluation", name).read_bytes() for name in ("scores.json", "alone.json")]
        assert both[0] == both[1]
    again = Worker(EVALUATION)
    assert [again.work(run) for run in runs] == [replace(outcome, state="found finished") for outcome in first]
    assert len(bases) == 1  # nothing was missing, so no base was needed


def test_what_a_user_can_mend_is_an_outcome_and_other_errors_are_raised(tmp_path, monkeypatch):
    untrained, unknown, fine = (write_run(tmp_path / "runs", name) for name in ("untrained", "unknown", "fine"))
    RunFolder(untrained.url).vectors.unlink()
    shutil.rmtree(unknown.photos)
    worker = Worker(EVALUATION)
    assert (
        worker.work(untrained).about == f"{untrained.url}: a run without a subject file; expected a finished training"
    )
    assert worker.work(unknown).about == f"--reference {unknown.photos}: 0 real images of unknown"
    monkeypatch.setattr(fleet_worker, "gather", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.work(fine)


def test_nothing_is_drawn_without_the_encoders(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet_worker.generation, "generate", lambda *_: pytest.fail("drew"))
    worker = Worker(replace(EVALUATION, dino_weights=tmp_path / "absent.pth", protocol=PROTOCOLS["dinov2"]))
    outcome = worker.work(write_run(tmp_path / "runs", "dog"))
    assert outcome.state == "failed"
    assert outcome.about.startswith(f"--dino_weights {tmp_path}/absent.pth: no such file; expected timm/")


def test_a_run_on_a_storage_is_scored_there_and_goes_on_from_there(memory, tmp_path):
    local = write_run(tmp_path / "runs", "dog")
    for name in ("runs", "photos"):
        Storage(f"memory://{name}/dog").keep(tmp_path / name / "dog")
    memory.at("dog").write("checkpoints/step_000002/state.pt", b"not needed")
    run = replace(local, url="memory://runs/dog", photos="memory://photos/dog")
    worker = Worker(EVALUATION)
    outcome = worker.work(run)
    assert outcome.state == "scored", outcome
    evaluation = memory.at("dog/evaluation")
    result = json.loads(evaluation.read("scores.json"))
    assert result["subjects"]["dog"]["reference_files"][0] == "../../../photos/dog/00.png"
    assert evaluation.at("../../../photos/dog").folders() == []
    assert memory.files.exists(f"{evaluation.path}/{result['subjects']['dog']['images'][0]['file']}")
    assert not list(Path(worker.scratch.name, "runs").iterdir())
    assert Worker(EVALUATION).work(run) == replace(outcome, state="found finished")
    memory.files.rm("/photos/dog", recursive=True)
    assert worker.work(run).about == "--reference memory://photos/dog: 0 real images of dog"


def test_a_base_is_kept_until_another_is_needed(monkeypatch):
    def load_pipeline(base, subjects, device):
        assert worker.pipe is None  # two never take memory at once
        return SimpleNamespace(base=base)

    monkeypatch.setattr(fleet_worker, "load_pipeline", load_pipeline)
    monkeypatch.setattr(fleet_worker, "suits", lambda pipe, subjects: subjects != ["float32"])
    worker = Worker(EVALUATION)
    first = worker.load("a", [], device="cpu")
    assert worker.load("a", ["other"], device="cpu") is first
    assert worker.load("b", [], device="cpu").base == "b"
    again = worker.load("a", [], device="cpu")
    assert again.base == "a"
    assert again is not first
    assert worker.load("a", ["float32"], device="cpu") is not again


def entry(number, **changes):
    fields = {"file": f"{number}.png", "subject": "dog", "cls": "dog", "role": "subject", "prompt_id": 1, "group": ""}
    fields |= {"prompt": "a red dog", "text": "a red dog", "seed": number, "settings": "s"}
    return manifest.Entry(**{**fields, **changes})


def test_scores_of_other_pictures_photos_or_encoders_do_not_count(tmp_path):
    for name in ("out", "real"):
        (tmp_path / name).mkdir()
    for number in (1, 2):
        flat((200, 10 * number, 0)).save(tmp_path / "out" / f"{number}.png")
    noise(0).save(tmp_path / "real" / "0.png")
    manifest.append(tmp_path / "out", [entry(1), entry(2)])
    protocol, encoders, file = PROTOCOLS["starter"], toys(), tmp_path / "scores.json"
    measured_with = scoring.measure(protocol, encoders)

    def found():
        (subject,) = gather([tmp_path / "out"], tmp_path / "real", allow_missing=True)
        return subject, kept_result(file, subject, measured_with)

    subject, result = found()
    assert result is None
    scores = {"dog": scoring.score_subject(subject, encoders, protocol)}
    written = scoring.result_of(scores, protocol, encoders, method="m", facts={}, allow_missing=True)
    scoring.write(written, file)
    assert found()[1] == written
    for protocol_of_now, encoders_of_now in (
        (PROTOCOLS["dinov2"], encoders),
        (protocol, replace(encoders, clip=replace(encoders.clip, weights_sha256="2" * 64))),
    ):
        assert kept_result(file, subject, scoring.measure(protocol_of_now, encoders_of_now)) is None
    file.write_text(file.read_text()[:-9])
    assert found()[1] is None
    scoring.write({**written, "subjects": {**scores, "cat": scores["dog"]}}, file)
    assert found()[1] is None
    scoring.write(written, file)
    pictures = [(tmp_path / "out" / name).read_bytes() for name in ("1.png", "2.png")]
    (tmp_path / "out" / "1.png").write_bytes(pictures[1])
    (tmp_path / "out" / "2.png").write_bytes(pictures[0])  # the same pictures, but each for the other's seed
    assert found()[1] is None
    (tmp_path / "out" / "1.png").write_bytes(pictures[0])
    (tmp_path / "out" / "2.png").unlink()
    assert found()[1] is None
    (tmp_path / "out" / "2.png").write_bytes(pictures[1])
    assert found()[1] == written
    manifest.keep_only(tmp_path / "out", [entry(1, text="a green dog"), entry(2)])
    assert found()[1] is None
    manifest.keep_only(tmp_path / "out", [entry(1), entry(2)])
    noise(1).save(tmp_path / "real" / "0.png")
    assert found()[1] is None
