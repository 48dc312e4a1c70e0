"""Trainings of the miniature DreamBench: tuned on four subjects, run on twelve others, scored by our encoders."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.starter_scores import means_of, recognised
from eval import generation, scoring
from eval.collection import Subject, gather
from eval.encoders import Encoders
from eval.protocols import PROTOCOLS
from starter import judge, world
from starter.subjects import EXAMPLES, SUBJECTS, TUNING_SUBJECTS, shots, write
from train_dreambooth_vectorfit import main as train
from vectorfit.atomic import write_atomically
from vf_training import methods
from vf_training.runs import RunFolder

WORK = Path("runs/table")
SCORES = Path(__file__).with_name("dreambooth_scores")  # what came out, a file per method and seed
PROTOCOL = PROTOCOLS["starter"]
# Tried at the preset's 300 steps, around where each method's own users train; then other steps at the best rate.
VECTOR_RATES = (2e-2, 4e-2, 8e-2)
BIASES = 0.1  # their rate, of sigma's: as in the preset, where benchmarks/starter_preset.md has other shares
RATES = {"full": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3, 1e-2), "svft": (1e-2, 2e-2, 4e-2)}
FIRST_STEPS, OTHER_STEPS = 300, (150, 450)
KEPT = 0.95  # share of pictures with the ground asked for, and of class pictures with the noun, that is enough


@dataclass(frozen=True)
class Settings:
    """What a method is tuned in."""

    rate: float
    steps: int

    def __str__(self) -> str:
        return f"{self.rate:g} x {self.steps}"


def _share_class_images(work: Path) -> None:
    """Makes runs in a folder find the class images of all others."""
    shared = WORK.resolve() / "class_images"
    if not (work / "class_images").exists():
        work.mkdir(parents=True, exist_ok=True)
        shared.mkdir(parents=True, exist_ok=True)
        (work / "class_images").symlink_to(shared)


def _flags(method: str, settings: Settings, seed: int, photos: Path, run: RunFolder) -> list[str]:
    flags: dict[str, Any] = {"instance_dir": photos, "base_model": "starter", "output_dir": run.path, "seed": seed}
    flags |= {"method": method, "learning_rate": settings.rate, "max_train_steps": settings.steps}
    flags |= {"bias_lr": BIASES * settings.rate} if methods.find(method).trains_biases else {}
    flags |= {"num_validation_images": 0, "checkpointing_steps": 1000}
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


def trained(method: str, settings: Settings, seed: int, photos: Path, work: Path) -> RunFolder:
    """A finished run, trained now or to its end unless it is there."""
    run = RunFolder(work / photos.name)
    if run.config.exists() and "seconds" in run.read_config():
        return run
    if run.checkpoints():
        train(["--resume_from_checkpoint", str(run.path)])
        return run
    shutil.rmtree(run.path, ignore_errors=True)  # stopped before there was anything to go on from
    _share_class_images(work)
    train(_flags(method, settings, seed, photos, run))
    return run


def _captioned(subject: Subject) -> Subject:
    """The subject with what its photos show, so that their own CLIP-T is of their true captions."""
    one = {**SUBJECTS, **TUNING_SUBJECTS}[subject.name]
    thing = f"{world.article(one.cls)} {one.cls}"
    return replace(subject, captions=[f"{thing} {ground}" for ground, _ in shots(subject.name, one)])


def scored(
    method: str, settings: Settings, seed: int, folders: list[Path], work: Path, per_prompt: int
) -> dict[str, Any]:
    """Trains, generates and scores every subject, and tells the result of all."""
    places, facts = [], []
    for folder in folders:
        run = trained(method, settings, seed, folder, work)
        task = generation.task_of(run.path, images_per_prompt=per_prompt)
        generation.generate(task)
        places.append(task.out)
        facts.append(generation.facts_of(run.path))
    encoders, critic = Encoders.load(PROTOCOL), judge.load()
    subjects = {subject.name: _captioned(subject) for subject in gather(places, folders[0].parent)}
    scores = {name: scoring.score_subject(subject, encoders, PROTOCOL) for name, subject in subjects.items()}
    for place in places:
        found = scores[place.parent.name]
        found["recognised"] = recognised(critic, subjects[place.parent.name])
        found["folder"] = os.path.relpath(place, SCORES)
        found["reference_files"] = [os.path.relpath(path, SCORES) for path in subjects[place.parent.name].references]
    means: dict[str, Any] = {
        name: sum(float(fact[name]) for fact in facts) / len(facts) for name in ("parameters", "bytes")
    }
    means |= {"rate": settings.rate, "steps": settings.steps, "seed": seed}
    result = scoring.result_of(scores, PROTOCOL, encoders, method=method, facts=means, allow_missing=False)
    result["overall"]["recognised"] = means_of({name: found["recognised"] for name, found in scores.items()})
    return result


def merit(trial: dict[str, float]) -> tuple[float, float]:
    """Likeness, where ground and class are kept; below that, how far they are kept."""
    return min(trial["ground"], trial["class"], KEPT), trial["dino"]


class Tuning:
    """The settings tried for a method on the tuning subjects, kept in a file."""

    def __init__(self, method: str) -> None:
        self.method, self.file = method, SCORES / "tuning" / f"{method}.json"
        self.trials: list[dict[str, float]] = json.loads(self.file.read_text())["trials"] if self.file.exists() else []

    @property
    def best(self) -> Settings:
        """Where likeness is highest of the settings that keep ground and class."""
        if not self.trials:
            sys.exit(
                f"{self.method} is not tuned: python -m benchmarks.dreambooth_table --tune --methods {self.method}"
            )
        found = max(self.trials, key=merit)
        return Settings(found["rate"], int(found["steps"]))

    def _wanted(self) -> Iterator[Settings]:
        for rate in RATES.get(self.method, VECTOR_RATES):
            yield Settings(rate, FIRST_STEPS)
        rate = self.best.rate
        for steps in OTHER_STEPS:
            yield Settings(rate, steps)

    def run(self) -> None:
        """Tries what is not tried yet."""
        photos = WORK / "tuning-photos"
        write(photos, TUNING_SUBJECTS)
        for settings in self._wanted():
            if any((trial["rate"], trial["steps"]) == (settings.rate, settings.steps) for trial in self.trials):
                continue
            work = WORK / "tuning" / f"{self.method}-{settings.rate:g}-{settings.steps}"
            result = scored(self.method, settings, 0, [photos / name for name in TUNING_SUBJECTS], work, 2)["overall"]
            kept = {kind: result[kind]["mean"] for kind in ("dino", "clip_i", "clip_t")}
            kept |= {name: result["recognised"][name] for name in ("noun", "ground", "class")}
            self.trials.append({"rate": settings.rate, "steps": settings.steps, **kept, "pres": result["pres"]})
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, (json.dumps({"trials": self.trials}, indent=1) + "\n").encode())
            print(self.method, settings, kept, flush=True)


def trial(method: str, seed: int) -> Path:
    """The result of a method and seed on the twelve subjects at its tuned settings: the file, made now unless it is."""
    settings, file = Tuning(method).best, SCORES / f"{method}-{seed}.json"
    if file.exists():
        facts = scoring.read(file)["facts"]
        if (facts["rate"], facts["steps"]) == (settings.rate, settings.steps):
            return file
    work = WORK / f"{method}-{settings.rate:g}-{settings.steps}" / str(seed)
    result = scored(method, settings, seed, [EXAMPLES / name for name in SUBJECTS], work, 4)
    scoring.write(result, file)
    scores = {kind: round(result["overall"][kind]["mean"], 3) for kind in ("dino", "clip_i", "clip_t")}
    print(file, scores, flush=True)
    return file


def read_costs() -> dict[str, dict[str, float]]:
    """Seconds and bytes of peak memory of a training, by method."""
    file = SCORES / "costs.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def measure_cost(method: str) -> None:
    """Trains a subject in a process of its own, on a machine that has nothing else to do, and keeps what it took."""
    settings, run = Tuning(method).best, RunFolder(WORK / "cost" / method)
    shutil.rmtree(run.path, ignore_errors=True)
    flags = _flags(method, settings, 0, EXAMPLES / "dog", run)
    _share_class_images(run.path.parent)
    subprocess.run([sys.executable, "train_dreambooth_vectorfit.py", *flags], check=True)
    told = run.read_config()
    costs = read_costs() | {method: {"seconds": told["seconds"], "memory": told["peak_memory"]}}
    write_atomically(SCORES / "costs.json", (json.dumps(costs, indent=1) + "\n").encode())
