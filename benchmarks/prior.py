"""Every prior, and none, on subjects of the starter. `python -m benchmarks.prior`"""

import argparse
import time
from pathlib import Path

from benchmarks.starter_scores import Scorer
from benchmarks.table import write_table
from starter import world
from starter.subjects import EXAMPLES, SUBJECTS
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import grid
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import load_pipeline, set_subjects
from vf_training.runs import RunFolder

WORK = Path("runs/prior")
RESULT = Path(__file__).with_suffix(".md")
NAMES = ("cat", "bird", "boot", "vase")
PRIORS = {
    "class images": ("--prior", "class_images"),
    "base prediction": ("--prior", "base_prediction"),
    "drift, weight 1e-6": ("--prior", "drift", "--drift_weight", "1e-6"),
    "drift, weight 3e-6": ("--prior", "drift", "--drift_weight", "3e-6"),
    "drift, weight 1e-5": ("--prior", "drift", "--drift_weight", "1e-5"),
    "drift, weight 3e-5": ("--prior", "drift", "--drift_weight", "3e-5"),
    "none": ("--prior", "none"),
}
NOTES = f"""Means over these subjects: {", ".join(NAMES)}; a picture per ground ({len(world.BACKGROUNDS)}) each, equal
seeds. Likeness is the mean cosine between the judge's embeddings of `sks` pictures and of the five photos.
"Class likeness" is the same of pictures without `sks`: the base's is what it should stay at; above it, the
class has drifted towards the subject. Seconds are of the whole run, class images included: those are drawn
anew for every subject here, as for a first training of a class."""


def trained(name: str, prior: str) -> tuple[RunFolder, float]:
    run = RunFolder(WORK / prior.replace(" ", "-").replace(",", "") / name / "run")
    if not run.vectors.exists():
        flags = ("--instance_dir", EXAMPLES / name, "--base_model", "starter", "--output_dir", run.path)
        began = time.perf_counter()
        train([str(flag) for flag in (*flags, "--num_validation_images", 0, *PRIORS[prior])])
        run.write_config({**run.read_config(), "whole_seconds": time.perf_counter() - began})
    return run, run.read_config()["whole_seconds"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    base = resolve("starter")
    pipe, scorer, rows = load_pipeline(base), Scorer.of(base.preset), []
    for prior in ("base", *PRIORS):
        totals, pictures = [], []
        for name in NAMES:
            photos, cls = read_folder(EXAMPLES / name).images, SUBJECTS[name].cls
            run, seconds = trained(name, prior) if prior in PRIORS else (None, 0.0)
            set_subjects(pipe, [(run.path, 1.0)] if run else [])
            mine = scorer.score(pipe, f"sks {cls}", cls, photos)
            general = scorer.score(pipe, f"{world.article(cls)} {cls}", cls, photos)
            scores = [mine.likeness, mine.background.float(), general.likeness, general.cls.float()]
            totals.append([*(score.mean().item() for score in scores), seconds])
            pictures += [[photos[0], *mine.images], [photos[0], *general.images]]
        means = [sum(column) / len(totals) for column in zip(*totals, strict=True)]
        rows.append([prior, *(f"{value:.2f}" for value in means[:4]), f"{means[4]:.0f}"])
        print(*rows[-1], flush=True)
        grid(pictures, cell=world.SIZE).save(WORK / f"{prior.replace(' ', '-').replace(',', '')}.png")
        header = ["prior", "likeness", "ground right", "class likeness", "class kept", "seconds"]
        write_table(RESULT, "Keeping the class", "python -m benchmarks.prior", header, rows, NOTES)


if __name__ == "__main__":
    main()
