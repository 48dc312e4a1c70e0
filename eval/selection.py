"""Picks a run's best checkpoint and strength: `python -m eval select RUN`.

Every kept checkpoint, at a few strengths, draws the same small set of prompts at the same seeds. `balance` scores the
pictures; the highest balance is picked, of equal ones the strength nearest to 1, then the earlier checkpoint.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.vectors_file import scale_vectors
from vf_dreambooth.base_models import BaseModel
from vf_dreambooth.images import write_png
from vf_dreambooth.photos import photo_paths
from vf_dreambooth.pipeline import GenerationSettings, base_of, generate_images, load_pipeline, set_subjects
from vf_training import methods
from vf_training.runs import VECTORS, RunFolder

from . import trade_off
from .balance import Embedded, Frame, Scores
from .dreambench import SHARED, STRENGTHS
from .embeddings import embed_files
from .encoders import Encoders
from .generation import task_of
from .protocols import Protocol

SCHEMA = "vectorfit-selection/1"
FOLDER = "selection"  # in a run folder: pictures, trade_off.png, selection.json, and the subject file of before
BEFORE = "before.safetensors"
PROMPTS, CLASS_PROMPTS = 6, 4  # pictures of each candidate
FIRST_SEED = 300_000  # far from the seeds of trainings and of `eval generate`, whose scores are to judge the choice
OTHER_SEEDS = 1000  # from those of a choice to those that judge it
RULE = "the highest balance, the harmonic mean of likeness, prompt and class; then the strength nearest to 1"


@dataclass(frozen=True)
class Candidate:
    """A checkpoint at a strength."""

    step: int
    strength: float
    file: Path

    @property
    def name(self) -> str:
        return f"step {self.step}, strength {self.strength:g}"


@dataclass(frozen=True)
class Pictures:
    """What a candidate, or the base, drew: pictures of the subject's prompts, then of the class's."""

    subject: list[Path]
    cls: list[Path]


def candidates(run: RunFolder, strengths: Sequence[float] = STRENGTHS) -> list[Candidate]:
    """Every kept checkpoint at every strength; files of LoRA and full fine-tuning have the strength 1 alone.

    Raises:
        VectorFitError: a strength is not above 0, or the run has no checkpoints.
    """
    wrong = [strength for strength in strengths if not 0 < strength < float("inf")]
    if wrong:
        raise VectorFitError(f"--strengths: got {wrong[0]}, expected numbers above 0")
    found = {step: folder / VECTORS for step, folder in run.checkpoints().items() if (folder / VECTORS).exists()}
    if not found:
        raise VectorFitError(f"{run.path}: has no checkpoints to choose from; expected a DreamBooth run's folder")
    return [
        Candidate(step, strength, file)
        for step, file in found.items()
        for strength in (strengths if methods.holds_vectors(vf.read_metadata(file)) else (1.0,))
    ]


def best(scored: Sequence[tuple[Candidate, Scores]]) -> Candidate:
    """The candidate that the rule picks."""
    return max(scored, key=lambda pair: (pair[1].balance, -abs(pair[0].strength - 1), -pair[0].step))[0]


class Artist:
    """Draws the pictures of candidates and of the base, each once: a stopped selection goes on where it was."""

    def __init__(
        self, run: RunFolder, base: BaseModel, device: str, *, progress: bool = False, others: bool = False
    ) -> None:
        """`others` takes prompts and seeds that no choice is made by, to judge the choice."""
        self.file = candidates(run)[0].file
        task = task_of(self.file)
        self.folder, self.base, self.device, self.progress = run.path / FOLDER / "pictures", base, device, progress
        self.sampling = GenerationSettings.of(base.preset)
        self.first_seed = FIRST_SEED + (OTHER_SEEDS if others else 0)
        spread = [task.prompts[index * len(task.prompts) // PROMPTS + others] for index in range(PROMPTS)]
        self.of_subject = [prompt.text(f"{task.token} {task.cls}") for prompt in spread]
        self.texts = [prompt.text(task.cls) for prompt in spread]
        self.titles = [prompt.text("…").removeprefix("a … ") for prompt in spread]
        grounds = SHARED[CLASS_PROMPTS:][:CLASS_PROMPTS] if others else SHARED[:CLASS_PROMPTS]
        self.of_class = [f"a {task.cls} {words}" for words in grounds]
        self._pipe: DiffusionPipeline | None = None

    def pictures(self, candidate: Candidate | None) -> Pictures:
        """The pictures of a candidate, or of the base, which is asked for the class in place of the subject."""
        content: dict[str, Any] = {**asdict(self.sampling), "base": [self.base.name, self.base.revision]}
        content["first_seed"] = self.first_seed
        if candidate is not None:
            content |= {"strength": candidate.strength, "file": hashlib.sha256(candidate.file.read_bytes()).hexdigest()}
        name = "base" if candidate is None else f"{candidate.step:06d}-{candidate.strength:g}"
        settings = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        prompts = [*(self.texts if candidate is None else self.of_subject), *self.of_class]
        paths = [
            self.folder / f"{name}-{settings}" / f"{n}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}.png"
            for n, prompt in enumerate(prompts)
        ]
        missing = [n for n, path in enumerate(paths) if not path.exists()]
        if missing:
            self._draw(candidate, [(n, prompts[n], paths[n]) for n in missing])
        return Pictures(paths[:PROMPTS], paths[PROMPTS:])

    def _draw(self, candidate: Candidate | None, wanted: Sequence[tuple[int, str, Path]]) -> None:
        if self._pipe is None:
            self._pipe = load_pipeline(self.base, [(self.file, 1.0)], device=self.device)  # in the precision it needs
        set_subjects(self._pipe, [] if candidate is None else [(candidate.file, candidate.strength)])
        title, size = "the base" if candidate is None else candidate.name, self.sampling.batch_size
        for start in tqdm(range(0, len(wanted), size), desc=title, unit="batch", disable=not self.progress):
            numbers, prompts, paths = zip(*wanted[start : start + size], strict=True)
            seeds = [self.first_seed + number for number in numbers]
            for path, image in zip(paths, generate_images(self._pipe, prompts, seeds, self.sampling), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_png(path, image)


def _embedded(pictures: Pictures, encoders: Encoders) -> Embedded:
    dino, clip = encoders.dino, encoders.clip
    return Embedded(
        embed_files(dino, pictures.subject), embed_files(dino, pictures.cls), embed_files(clip, pictures.subject)
    )


def references_of(run: RunFolder, reference: Path | None) -> list[Path]:
    """The photos that the run was trained on, or those in `reference`. Raises VectorFitError where there are none."""
    folder = reference or Path(run.read_config()["settings"]["instance_data_dir"])
    photos = photo_paths(folder) if folder.is_dir() else []
    if not photos:
        raise VectorFitError(f"{folder}: no photos of the subject to compare with; say where they are with --reference")
    return photos


def score(
    offered: Sequence[Candidate], artist: Artist, encoders: Encoders, photos: Sequence[Path]
) -> dict[Candidate, Scores]:
    """The scores of candidates, by pictures that are drawn now unless they are there."""
    frame = Frame(
        embed_files(encoders.dino, photos),
        embed_files(encoders.clip, photos),
        _embedded(artist.pictures(None), encoders),
        torch.cat([encoders.clip.texts([text]) for text in artist.texts]),
    )
    return {candidate: frame.scores(_embedded(artist.pictures(candidate), encoders)) for candidate in offered}


def select(
    run: RunFolder,
    encoders: Encoders,
    protocol: Protocol,
    *,
    reference: Path | None = None,
    strengths: Sequence[float] = STRENGTHS,
    base_model: str | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Scores every candidate, shows the trade-off in selection/trade_off.png, and returns what selection.json holds.

    The subject file stays as it is; `apply` makes the picked candidate that.

    Raises:
        VectorFitError: there are no checkpoints or photos, or the base cannot be loaded.
    """
    offered, photos = candidates(run, strengths), references_of(run, reference)
    base = base_of(offered[0].file, base_model or run.read_config().get("base", {}).get("location"))
    artist = Artist(run, base, device, progress=progress)
    scored = list(score(offered, artist, encoders, photos).items())
    picked = best(scored)
    shown = [trade_off.Shown(c.name, c.step, s, artist.pictures(c).subject, c == picked) for c, s in scored]
    target, of_base = run.path / FOLDER / "trade_off.png", artist.pictures(None).subject
    write_png(target, trade_off.picture(shown, photos, of_base, artist.titles, protocol.labels))
    result = {
        "schema": SCHEMA,
        "rule": RULE,
        "protocol": {"name": protocol.name, "version": protocol.version, "hash": protocol.hash},
        "prompts": artist.of_subject,
        "class_prompts": artist.of_class,
        "candidates": [{"step": c.step, "strength": c.strength, **asdict(scores)} for c, scores in scored],
        "picked": {"step": picked.step, "strength": picked.strength},
    }
    write_atomically(run.path / FOLDER / "selection.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def apply(run: RunFolder, step: int, strength: float) -> bool:
    """Makes a checkpoint at a strength the run's subject file; returns whether that changed it.

    The checkpoints stay, and the subject file of before the first selection is kept as selection/before.safetensors.
    """
    target, source, before = run.vectors, run.checkpoint(step) / VECTORS, run.path / FOLDER / BEFORE
    scaled = run.path / FOLDER / "picked.safetensors"
    if strength == 1:
        content = source.read_bytes()
    else:
        scale_vectors(source, strength, scaled)
        content = scaled.read_bytes()
        scaled.unlink()
    if target.exists() and target.read_bytes() == content:
        return False
    if target.exists() and not before.exists():
        write_atomically(before, target.read_bytes())
    write_atomically(target, content)
    return True
