"""What masks and the training options change, on subjects photographed on one ground. `python -m benchmarks.inputs`"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.starter_scores import Scorer, write_table
from starter.subjects import SUBJECTS
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import GenerationSettings, load_pipeline, set_subjects
from vf_training.runs import RunFolder

WORK = Path("runs/inputs")
RESULT = Path(__file__).with_suffix(".md")
SHOTS, SIDE = 5, 256
GROUND = ((214, 120, 32), (250, 214, 120))  # two colours in a chequer: a ground that is seen where it was copied
VARIANTS: dict[str, tuple[bool, Sequence[object]]] = {  # with masks, and further flags
    "as they are": (False, ()),
    "masks": (True, ()),
    "masks, ground counts 0": (True, ("--unmasked_weight", 0)),
    "masks, ground counts 0.3": (True, ("--unmasked_weight", 0.3)),
    "only cut by masks": (True, ("--unmasked_weight", 1)),
    "base prediction": (False, ("--prior", "base_prediction")),
    "caption dropout 0.1": (False, ("--caption_dropout", 0.1)),
    "offset noise 0.1": (False, ("--offset_noise", 0.1)),
    "Huber": (False, ("--loss_type", "huber")),
    "Prodigy": (False, ("--optimizer", "prodigy")),
    "polynomial": (False, ("--lr_scheduler", "polynomial")),
    "cosine, two restarts": (False, ("--lr_scheduler", "cosine_with_restarts", "--lr_num_cycles", 2)),
}
NOTES = """Means over these subjects: {names}; {shots} photos of each, all on one chequered ground; a picture per
ground of the world, equal seeds. Likeness is the mean cosine between the judge's embeddings of `sks` pictures and
of the subject's drawing on white. "Ground right" is the share of pictures whose ground the judge takes for the one
that was asked for: a copied ground lowers it. "Class kept" is the share of pictures without `sks` that the judge takes
for the class."""


def write_photos(name: str, folder: Path, with_masks: bool) -> None:
    """Photos of a subject, its drawing at several sizes and places on the same ground, and on request their masks."""
    rng, drawing = np.random.default_rng(list(name.encode())), SUBJECTS[name].picture().convert("RGBA")
    rows, columns = np.indices((SIDE, SIDE)) // 16
    ground = Image.fromarray(np.array(GROUND, np.uint8)[(rows + columns) % 2])
    folder.mkdir(parents=True, exist_ok=True)
    for shot in range(SHOTS):
        side = int(rng.integers(SIDE // 3, SIDE * 2 // 3))
        place = tuple(int(offset) for offset in rng.integers(0, SIDE - side, 2))
        scaled, photo, mask = drawing.resize((side, side)), ground.copy(), Image.new("L", ground.size)
        photo.paste(scaled, place, scaled)
        photo.save(folder / f"{shot}.png")
        if with_masks:
            mask.paste(scaled.getchannel("A"), place)
            mask.save(folder / f"{shot}.mask.png")


def references(name: str) -> list[Image.Image]:
    drawing = SUBJECTS[name].picture().convert("RGBA")
    return [Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB")]


def trained(name: str, variant: str, seed: int) -> tuple[RunFolder, float]:
    with_masks, flags = VARIANTS[variant]
    place = WORK / variant.replace(" ", "-").replace(",", "") / name
    photos, run = place / "photos", RunFolder(place / f"run-{seed}")
    if not run.vectors.exists():
        write_photos(name, photos, with_masks)
        assert len(read_folder(photos).images) == SHOTS
        given = ("--instance_dir", photos, "--class_noun", SUBJECTS[name].cls, "--base_model", "starter")
        began = time.perf_counter()
        train(
            [str(f) for f in (*given, "--output_dir", run.path, "--num_validation_images", 0, "--seed", seed, *flags)]
        )
        run.write_config({**run.read_config(), "whole_seconds": time.perf_counter() - began})
    return run, run.read_config()["whole_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS)[:4], choices=list(SUBJECTS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    base = resolve("starter")
    pipe, scorer, rows = load_pipeline(base), Scorer(GenerationSettings.of(base.preset, 12)), []
    header = ["photos and flags", "likeness", "ground right", "class kept", "seconds"]
    for variant in ("the base", *flags.variants):
        totals = []
        for name in flags.subjects:
            cls = SUBJECTS[name].cls
            run, seconds = trained(name, variant, flags.seed) if variant in VARIANTS else (None, 0.0)
            set_subjects(pipe, [(run.path, 1.0)] if run else [])
            mine = scorer.score(pipe, f"sks {cls}", cls, references(name))
            general = scorer.score(pipe, f"a {cls}", cls, references(name))
            scores = (mine.likeness, mine.background.float(), general.cls.float())
            totals.append([*(score.mean().item() for score in scores), seconds])
        means = [sum(column) / len(totals) for column in zip(*totals, strict=True)]
        rows.append([variant, *(f"{value:.2f}" for value in means[:3]), f"{means[3]:.0f}"])
        print(*rows[-1], flush=True)
        notes = NOTES.format(names=", ".join(flags.subjects), shots=SHOTS)
        write_table(RESULT, "What people bring", "python -m benchmarks.inputs", header, rows, notes)


if __name__ == "__main__":
    main()
