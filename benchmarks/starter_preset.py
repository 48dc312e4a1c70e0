"""The sweep behind the starter's preset: rate x steps on two tuning subjects. `python -m benchmarks.starter_preset`"""

import argparse
from pathlib import Path

from benchmarks.starter_scores import Scorer
from benchmarks.table import write_table
from starter import world
from starter.subjects import TUNING_SUBJECTS, photographs, write
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.pipeline import GenerationSettings, load_pipeline, set_subjects
from vf_training.runs import RunFolder

WORK = Path("runs/sweep")
RATES = (1e-2, 2e-2, 4e-2, 8e-2)
STEPS = (100, 200, 300)
RESULT = Path(__file__).with_suffix(".md")


def trained(name: str, rate: float) -> RunFolder:
    """A finished run of a tuning subject at a rate, trained now unless it is there."""
    run = RunFolder(WORK / f"{name}-{rate:g}")
    if not run.vectors.exists():
        flags = {
            "--instance_dir": WORK / "photos" / name,
            "--base_model": "starter",
            "--output_dir": run.path,
            "--learning_rate": rate,
            "--max_train_steps": STEPS[-1],
            "--checkpointing_steps": STEPS[0],
            "--checkpoints_total_limit": len(STEPS),
            "--num_validation_images": 0,
        }
        train([str(part) for pair in flags.items() for part in pair])
    return run


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    write(WORK / "photos", TUNING_SUBJECTS)
    base = resolve("starter")
    pipe, scorer, rows = load_pipeline(base), Scorer(GenerationSettings.of(base.preset, 12)), []
    for name, subject in TUNING_SUBJECTS.items():
        photos, cls = photographs(name, subject), subject.cls
        settings = [("base", 0, [])]
        for rate in RATES:
            run = trained(name, rate)
            settings += [(f"{rate:g}", step, [(run.checkpoint(step) / "vectors.safetensors", 1.0)]) for step in STEPS]
        for rate_name, step, subjects in settings:
            set_subjects(pipe, subjects)
            mine = scorer.score(pipe, f"sks {cls}", cls, photos)
            general = scorer.score(pipe, f"{world.article(cls)} {cls}", cls, photos)
            values = [
                mine.likeness.mean(),
                mine.background.float().mean(),
                general.cls.float().mean(),
                general.likeness.mean(),
            ]
            rows.append([name, rate_name, str(step), *(f"{value:.2f}" for value in values)])
            print(*rows[-1], flush=True)
            header = [
                "subject",
                "rate",
                "steps",
                "likeness",
                "background right",
                "class kept",
                "likeness of class",
            ]
            write_table(RESULT, "The starter's preset", "python -m benchmarks.starter_preset", header, rows, NOTES)


NOTES = """Likeness is the mean cosine between the judge's embeddings of `sks` pictures and of the five photos;
12 pictures a cell, one per background. "Likeness of class" is that of pictures without `sks`: it should stay at the
base's. Steps are the checkpoints of one run of 300 steps."""


if __name__ == "__main__":
    main()
