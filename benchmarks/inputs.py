"""What masks, cuts and training options change: `python -m benchmarks.inputs [--photos DIR ...]`"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.starter_scores import Scorer
from benchmarks.table import write_table
from starter import world
from starter.subjects import SUBJECTS
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import grid
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import load_pipeline, set_subjects
from vf_dreambooth.prompts import class_noun
from vf_training.runs import RunFolder

WORK = Path("runs/inputs")
SHOTS, SIZE = 5, (384, 256)
GROUND = ((214, 120, 32), (250, 214, 120))  # two colours in a chequer: a ground that is seen where it was copied
UNMASKED: dict[str, Sequence[object]] = {  # flags of trainings on photos without masks
    "as they are": (),
    "random squares": ("--no-center_crop",),
    "photos whole": ("--aspect_ratio_buckets",),
}
MASKS: dict[str, Sequence[object]] = {  # what is asked of masks
    "masks": (),
    "masks, ground counts 0": ("--unmasked_weight", 0),
    "masks, ground counts 0.3": ("--unmasked_weight", 0.3),
    "masks only move the cut": ("--unmasked_weight", 1),
    "masks, photos whole": ("--aspect_ratio_buckets",),
}
OPTIONS: dict[str, Sequence[object]] = {  # with masks where there are any
    "base prediction": ("--prior", "base_prediction"),
    "no prior": ("--prior", "none"),
    "Prodigy": ("--optimizer", "prodigy"),
    "caption dropout 0.1": ("--caption_dropout", 0.1),
    "offset noise 0.1": ("--offset_noise", 0.1),
    "Huber": ("--loss_type", "huber"),
    "polynomial": ("--lr_scheduler", "polynomial"),
    "cosine, two restarts": ("--lr_scheduler", "cosine_with_restarts", "--lr_num_cycles", 2),
}
VARIANTS = {**UNMASKED, **MASKS, **OPTIONS}
DRAWN = f"""{SHOTS} wide photos of each subject, which stands somewhere on one chequered ground, with masks in all rows
but {", ".join(f'"{name}"' for name in UNMASKED)}. Likeness is to its drawing on white."""
REAL = "Their own photos, which have no masks. Likeness is to these photos."
NOTES = """Means over these subjects: {names}; a picture per ground of the world, equal seeds. {photos} It is the mean
cosine between the judge's embeddings of `sks` pictures and of those. "Ground right" is the share of pictures whose
ground the judge takes for the one that was asked for: a copied ground lowers it. "Class kept" is the share of pictures
without `sks` that the judge takes for the class. The pictures are in runs/inputs."""


@dataclass(frozen=True)
class Source:
    """A subject: drawn, or with real photos in `folder`."""

    name: str
    cls: str
    folder: Path | None = None

    def references(self) -> list[Image.Image]:
        if self.folder is not None:
            return read_folder(self.folder).images
        drawing = SUBJECTS[self.name].picture().convert("RGBA")
        return [Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB")]

    def write(self, photos: Path, with_masks: bool) -> None:
        """Writes the photos to train on, and on request their masks."""
        shutil.rmtree(photos, ignore_errors=True)
        if self.folder is not None:
            shutil.copytree(self.folder, photos)
            return
        photos.mkdir(parents=True)
        rng, drawing = np.random.default_rng(list(self.name.encode())), SUBJECTS[self.name].picture().convert("RGBA")
        rows, columns = np.indices(SIZE[::-1]) // 16
        ground = Image.fromarray(np.array(GROUND, np.uint8)[(rows + columns) % 2])
        for shot in range(SHOTS):
            side = int(rng.integers(SIZE[1] // 3, SIZE[1] * 4 // 5))
            place = tuple(int(rng.integers(0, length - side)) for length in SIZE)
            scaled, photo, mask = drawing.resize((side, side)), ground.copy(), Image.new("L", SIZE)
            photo.paste(scaled, place, scaled)
            photo.save(photos / f"{shot}.png")
            if with_masks:
                mask.paste(scaled.getchannel("A"), place)
                mask.save(photos / f"{shot}.mask.png")


def trained(source: Source, variant: str, seed: int) -> RunFolder:
    """A finished run, trained now unless it is there. All runs share the class images."""
    name = f"{source.name}-{file_name(variant)}-{seed}"
    photos, run = WORK / "photos" / name, RunFolder(WORK / name)
    if not run.vectors.exists():
        source.write(photos, variant not in UNMASKED)
        shutil.rmtree(run.path, ignore_errors=True)  # stopped before its end
        given = ("--instance_dir", photos, "--class_noun", source.cls, "--base_model", "starter", "--seed", seed)
        flags = (*given, "--output_dir", run.path, "--num_validation_images", 0, *VARIANTS[variant])
        train([str(flag) for flag in flags])
    return run


def file_name(variant: str) -> str:
    return variant.replace(" ", "-").replace(",", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS)[:4], choices=list(SUBJECTS))
    parser.add_argument("--photos", nargs="+", type=Path, help="folders of real photos instead")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    sources = [Source(name, SUBJECTS[name].cls) for name in flags.subjects]
    if flags.photos:
        sources = [Source(folder.name, class_noun(folder.name), folder) for folder in flags.photos]
    variants = [name for name in flags.variants if not (flags.photos and name in MASKS)]
    names, photos = ", ".join(source.name for source in sources), REAL if flags.photos else DRAWN
    result = Path(__file__).with_name("inputs_real.md" if flags.photos else "inputs.md")
    WORK.mkdir(parents=True, exist_ok=True)
    base = resolve("starter")
    pipe, scorer, rows = load_pipeline(base), Scorer.of(base.preset), []
    header = ["photos and flags", "likeness", "ground right", "class kept"]
    for variant in ("the base", *variants):
        totals, pictures = [], []
        for source in sources:
            set_subjects(pipe, [(trained(source, variant, flags.seed).path, 1.0)] if variant in VARIANTS else [])
            mine = scorer.score(pipe, f"sks {source.cls}", source.cls, source.references())
            general = scorer.score(pipe, f"{world.article(source.cls)} {source.cls}", source.cls, source.references())
            scores = (mine.likeness, mine.background.float(), general.cls.float())
            totals.append([score.mean().item() for score in scores])
            pictures += [[source.references()[0], *mine.images], [source.references()[0], *general.images]]
        means = [sum(column) / len(totals) for column in zip(*totals, strict=True)]
        rows.append([variant, *(f"{value:.2f}" for value in means)])
        grid(pictures, cell=world.SIZE).save(WORK / f"{result.stem}-{file_name(variant)}.png")
        print(*rows[-1], flush=True)
        notes = NOTES.format(names=names, photos=photos)
        command = shlex.join(["python", "-m", "benchmarks.inputs", *sys.argv[1:]])
        write_table(result, "What people bring", command, header, rows, notes)


if __name__ == "__main__":
    main()
