"""What could lift VectorFit, tried on the tuning subjects, three seeds each: `python -m benchmarks.lifts`

A row is the default with one thing changed. What is no setting of the training is put into it here, for the trial
alone: it becomes a setting if it helps. A stopped benchmark goes on where it was.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from benchmarks.starter_scores import BACKGROUNDS, Scorer
from benchmarks.table import write_table
from eval.encoders import Encoders
from eval.intervals import estimate
from eval.protocols import PROTOCOLS
from eval.scoring import pairwise
from starter import world
from starter.subjects import TUNING_SUBJECTS, photographs, write
from train_dreambooth_vectorfit import main as train
from vectorfit.atomic import write_atomically
from vf_dreambooth import optimization
from vf_dreambooth.base_models import resolve, starter_folder
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.optimization import Optimization, Rate
from vf_dreambooth.pipeline import load_pipeline, set_subjects
from vf_training.runs import RunFolder

WORK = Path("runs/lifts")
RESULT = Path(__file__).with_suffix(".md")
SEEDS, TOKEN, WORD = range(3), "sks", "word.pt"
KINDS = ("DINO", "CLIP-I", "CLIP-T", "ground right", "class kept")


class OwnWord:
    """A trained change of the token's own embedding in a text encoder: `change` [pieces of the token, width]."""

    def __init__(self, text_encoder: nn.Module, change: Tensor | None = None) -> None:
        tokenizer = CLIPTokenizer.from_pretrained(starter_folder() / "tokenizer")
        embedding: Any = text_encoder.get_input_embeddings()  # type: ignore[operator]
        self.ids = tokenizer(TOKEN, add_special_tokens=False).input_ids
        start = torch.zeros(len(self.ids), embedding.weight.shape[1]) if change is None else change
        self.change = nn.Parameter(start.to(embedding.weight.device))
        self.hook = embedding.register_forward_hook(self._add)

    def _add(self, _module: nn.Module, arguments: tuple[Tensor], embedded: Tensor) -> Tensor:
        for number, change in zip(self.ids, self.change, strict=True):
            embedded = embedded + (arguments[0] == number)[..., None] * change.to(embedded.dtype)
        return embedded

    def train_along(self, built: Optimization, rate: float, file: Path) -> None:
        """Updates the embedding with every update of the training, at a rate of its own, and keeps it in a file."""
        optimizer, usual = torch.optim.AdamW([self.change], lr=rate, weight_decay=0.0), built.after_update

        def after_update(*given: Any) -> None:
            usual(*given)
            optimizer.step()
            optimizer.zero_grad()
            torch.save(self.change.detach().cpu(), file)

        built.after_update = after_update  # type: ignore[method-assign]


@dataclass(frozen=True)
class Row:
    """What is changed: flags, the rates of some vectors as factors of their kind's, the token's rate, a penalty."""

    flags: tuple[object, ...] = ()
    factors: Mapping[str, float] | None = None  # by pattern of names
    word_rate: float = 0.0
    drift_weight: float = 0.0  # of the squared norm of all vectors, beside the class images

    def rates(self, usual: Callable[[TrainConfig], list[Rate]], config: TrainConfig) -> list[Rate]:
        rates, factors = usual(config), self.factors or {}
        of = {rate.of: rate.value for rate in rates}
        own = [
            Rate(f"{number}", pattern, factor * (of.get("bias", of[""]) if pattern.endswith("bias") else of[""]))
            for number, (pattern, factor) in enumerate(factors.items())
        ]
        return [*own, *rates]

    def build(
        self,
        usual: Callable[..., Optimization],
        run: RunFolder,
        config: TrainConfig,
        models: Mapping[str, nn.Module],
        *more: Any,
    ) -> Optimization:
        with patch.object(optimization, "rates_of", partial(self.rates, optimization.rates_of)):
            built = usual(config, models, *more)
        if self.word_rate:
            OwnWord(models["text_encoder"]).train_along(built, self.word_rate, run.path / WORD)
        if self.drift_weight:
            vectors = built.vectors.values()
            penalty = lambda: self.drift_weight * torch.stack([v.square().sum() for v in vectors]).sum()  # noqa: E731
            built = replace(built, penalty=penalty)
        return built


ROWS = {
    "the default": Row(),
    "no freezing": Row(("--no-avf",)),
    "freezing relative to the rate": Row(("--avf_strength", "relative")),
    "own word, 1e-3": Row(word_rate=1e-3),
    "own word, 3e-4": Row(word_rate=3e-4),
    "attention's sigma x 2": Row(factors={"*attn*.sigma": 2.0}),
    "attention's sigma x 1/2": Row(factors={"*attn*.sigma": 0.5}),
    "feed-forward's sigma x 2": Row(factors={"*.ff.*.sigma": 2.0, "*.mlp.*.sigma": 2.0}),
    "feed-forward's sigma x 1/2": Row(factors={"*.ff.*.sigma": 0.5, "*.mlp.*.sigma": 0.5}),
    "text encoder's sigma x 1/2": Row(factors={"text_encoder.*.sigma": 0.5}),
    "text encoder's sigma x 2": Row(factors={"text_encoder.*.sigma": 2.0}),
    "mirrored photos": Row(("--random_flip",)),
    "random squares": Row(("--no-center_crop",)),
    "prior's weight 0.5": Row(("--prior_loss_weight", 0.5)),
    "prior's weight 2": Row(("--prior_loss_weight", 2)),
    "both priors": Row(drift_weight=1e-5),
    "moving average": Row(("--use_ema",)),
    "cosine": Row(("--lr_scheduler", "cosine")),
    "beta 2 of 0.99": Row(("--adam_beta2", 0.99)),
    "gradients clipped at 0.3": Row(("--max_grad_norm", 0.3)),
}


def trained(name: str, subject: str, seed: int) -> RunFolder:
    """A finished run of a row, trained now unless it is there."""
    run = RunFolder(WORK / name.replace(" ", "-").replace("/", "_") / f"{subject}-{seed}")
    if run.config.exists() and "seconds" in run.read_config():
        return run
    flags = {"--instance_dir": WORK / "photos" / subject, "--base_model": "starter", "--output_dir": run.path}
    flags |= {"--class_noun": TUNING_SUBJECTS[subject].cls, "--seed": seed, "--num_validation_images": 0}
    given = [str(part) for pair in flags.items() for part in pair] + [str(flag) for flag in ROWS[name].flags]
    given += ["--checkpointing_steps", "100000"]  # the token's embedding is in no checkpoint: begun again if stopped
    with patch.object(optimization, "build", partial(ROWS[name].build, optimization.build, run)):
        train(given)
    return run


class Judges:
    """The starter's pipeline, and what scores its pictures."""

    def __init__(self) -> None:
        base = resolve("starter")
        self.pipe: DiffusionPipeline = load_pipeline(base)
        self.scorer = Scorer.of(base.preset)
        self.encoders = Encoders.load(PROTOCOLS["starter"])

    def scores(self, run: RunFolder, subject: str) -> dict[str, float]:
        """The scores of pictures on all grounds, and of the class's."""
        cls, photos = TUNING_SUBJECTS[subject].cls, photographs(subject, TUNING_SUBJECTS[subject])
        thing = f"{world.article(cls)} {cls}"
        set_subjects(self.pipe, [(run.path, 1.0)])
        word = run.path / WORD
        own = OwnWord(self.pipe.text_encoder, torch.load(word, weights_only=True)) if word.exists() else None
        mine = self.scorer.score(self.pipe, f"{TOKEN} {cls}", cls, photos)
        general = self.scorer.score(self.pipe, thing, cls, photos)
        if own is not None:
            own.hook.remove()
        dino, clip = self.encoders.dino, self.encoders.clip
        drawn, texts = clip.images(mine.images), clip.texts([f"a photo of {thing} {ground}" for ground in BACKGROUNDS])
        values = (
            pairwise(dino.images(mine.images), dino.images(photos)).mean(),
            pairwise(drawn, clip.images(photos)).mean(),
            (drawn * texts).sum(1).mean(),
            mine.background.float().mean(),
            general.cls.float().mean(),
        )
        return {kind: float(value) for kind, value in zip(KINDS, values, strict=True)}


def scored(name: str, subject: str, seed: int, judges: Judges) -> dict[str, float]:
    """The scores of a run, kept beside it."""
    run = trained(name, subject, seed)
    file = run.path / "scores.json"
    if not file.exists():
        write_atomically(file, json.dumps(judges.scores(run, subject)).encode())
        print(name, subject, seed, file.read_text(), flush=True)
    return dict(json.loads(file.read_text()))


def row_of(name: str, found: Mapping[str, Mapping[tuple[str, int], Mapping[str, float]]]) -> list[str]:
    """Means over subjects and seeds, with the interval of the difference from the default on equal ones."""
    cells, usual = [name], found["the default"]
    for kind in KINDS:
        cell = f"{fmean(scores[kind] for scores in found[name].values()):.3f}"
        if name != "the default":
            differences = {f"{s}-{n}": [scores[kind] - usual[s, n][kind]] for (s, n), scores in found[name].items()}
            one = estimate(differences)
            cell += f" ({one.low:+.3f} to {one.high:+.3f})"
        cells.append(cell)
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--subjects", nargs="+", choices=list(TUNING_SUBJECTS), default=list(TUNING_SUBJECTS))
    flags = parser.parse_args(arguments)
    write(WORK / "photos", {name: TUNING_SUBJECTS[name] for name in flags.subjects})
    judges, found = Judges(), {}
    for name in dict.fromkeys(("the default", *flags.rows)):
        found[name] = {
            (subject, seed): scored(name, subject, seed, judges) for subject in flags.subjects for seed in SEEDS
        }
        rows = [row_of(done, found) for done in found]
        notes = NOTES.format(names=", ".join(flags.subjects), seeds=len(SEEDS))
        write_table(RESULT, "What could lift it", "python -m benchmarks.lifts", ["row", *KINDS], rows, notes)


NOTES = """Means over {seeds} seeds of these subjects: {names}; in brackets the 95 % interval of the difference from the
default on equal subjects and seeds. A picture per ground of the world. "Ground right" and "class kept" are the shares
of pictures that the judge takes for the ground that was asked for, and of pictures without `sks` for the class."""


if __name__ == "__main__":
    main()
