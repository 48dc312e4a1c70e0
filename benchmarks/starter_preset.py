"""The sweep behind the starter's preset, on the four tuning subjects. `python -m benchmarks.starter_preset`

Rates of sigma x rates of the biases x steps; with `--method` the rates of another method. A stopped sweep goes on where
it was.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from benchmarks.starter_scores import BACKGROUNDS, Scorer
from benchmarks.table import write_table
from starter import world
from starter.subjects import TUNING_SUBJECTS, photographs, write
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.pipeline import load_pipeline, set_subjects
from vf_training import methods
from vf_training.runs import RunFolder

WORK = Path("runs/sweep")
USUAL = "vectorfit"
RATES = {USUAL: (2e-2, 4e-2, 8e-2), "full": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3, 1e-2)}
BIAS_RATES = (1e-3, 4e-3, 1.6e-2)
STEPS = (100, 200, 300)
HEADER = ["rate", "biases' rate", "steps", "likeness", "noun", "ground right", "class kept", "likeness of class"]


def trained(method: str, name: str, rate: float, bias_rate: float | None) -> RunFolder:
    """A finished run of a tuning subject at the rates, trained now unless it is there."""
    run = RunFolder(WORK / method / f"{rate:g}{'' if bias_rate is None else f'-{bias_rate:g}'}" / name)
    if not run.vectors.exists():
        flags = {
            "--instance_dir": WORK / "photos" / name,
            "--base_model": "starter",
            "--output_dir": run.path,
            "--method": method,
            "--learning_rate": rate,
            "--max_train_steps": STEPS[-1],
            "--checkpointing_steps": STEPS[0],
            "--checkpoints_total_limit": len(STEPS),
            "--num_validation_images": 0,
        }
        if bias_rate is not None:
            flags["--bias_lr"] = bias_rate
        train([str(part) for pair in flags.items() for part in pair])
    return run


def settings(
    method: str, rates: list[float], bias_rates: list[float]
) -> Iterator[tuple[str, str, int, dict[str, Path | None]]]:
    """What a row shows: rates, steps, and every subject's file. First the base, last of each rate one rate for all."""
    yield "the base", "", 0, dict.fromkeys(TUNING_SUBJECTS)
    for rate in rates:
        for bias_rate in (*bias_rates, rate) if methods.find(method).trains_biases else (None,):
            runs = {name: trained(method, name, rate, bias_rate) for name in TUNING_SUBJECTS}
            for step in STEPS:
                files = {name: run.checkpoint(step) / "vectors.safetensors" for name, run in runs.items()}
                yield f"{rate:g}", "" if bias_rate is None else f"{bias_rate:g}", step, files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=methods.names(methods.DREAMBOOTH), default=USUAL)
    parser.add_argument("--rates", nargs="+", type=float, help="by default around where each method's users train")
    parser.add_argument("--bias_rates", nargs="+", type=float, default=list(BIAS_RATES))
    flags = parser.parse_args()
    write(WORK / "photos", TUNING_SUBJECTS)
    base = resolve("starter")
    pipe, scorer, rows = load_pipeline(base), Scorer.of(base.preset), []
    photos = {name: photographs(name, subject) for name, subject in TUNING_SUBJECTS.items()}
    of_photos = fmean(scorer.named(photos[name], subject.cls) for name, subject in TUNING_SUBJECTS.items())
    rows.append(["the photos", "", "", "", f"{of_photos:.2f}", "", "", ""])
    rates = flags.rates or list(RATES.get(flags.method, RATES[USUAL]))
    result = Path(__file__).with_suffix(".md")
    result = result if flags.method == USUAL else result.with_stem(f"{result.stem}_{flags.method}")
    command = shlex.join(["python", "-m", "benchmarks.starter_preset", *sys.argv[1:]])
    for rate, bias_rate, step, files in settings(flags.method, rates, flags.bias_rates):
        values = []
        for name, file in files.items():
            cls = TUNING_SUBJECTS[name].cls
            set_subjects(pipe, [] if file is None else [(file, 1.0)])
            mine = scorer.score(pipe, f"sks {cls}", cls, photos[name])
            general = scorer.score(pipe, f"{world.article(cls)} {cls}", cls, photos[name])
            scores = (mine.likeness, mine.cls, mine.background, general.cls, general.likeness)
            values.append([float(score.float().mean()) for score in scores])
        rows.append([rate, bias_rate, str(step), *(f"{fmean(column):.2f}" for column in zip(*values, strict=True))])
        print(*rows[-1], flush=True)
        write_table(result, f"The starter's preset: {flags.method}", command, HEADER, rows, NOTES)


NOTES = f"""Means over {", ".join(TUNING_SUBJECTS)}; a picture per ground ({len(BACKGROUNDS)}) and subject, equal seeds.
Likeness is the mean cosine between the judge's embeddings of `sks` pictures and of the five photos. "Noun" is the share
of `sks` pictures in which the judge sees the subject's noun, to be read beside the photos' own. "Likeness of class" is
that of pictures without `sks`: it should stay at the base's. Steps are the checkpoints of one run."""


if __name__ == "__main__":
    main()
