"""The subjects of examples/ at the preset, against the base. `python -m benchmarks.starter_subjects`

With `--method` another method than VectorFit, at its rate for the starter.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.starter_scores import BACKGROUNDS, Scorer
from benchmarks.table import write_table
from starter import world
from starter.subjects import EXAMPLES, SUBJECTS
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import comparison
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import load_pipeline, set_subjects
from vf_training import methods
from vf_training.runs import RunFolder

WORK = Path("runs/subjects")
USUAL = "vectorfit"
GALLERY = Path(__file__).parents[1] / "docs" / "comparison.png"
IN_GALLERY = ("dog", "clock", "guitar")
SHOWN = (0, 1, 3, 8)  # grounds of the pictures in the README
HEADER = ["subject", "noun in the photos", "likeness, base", "likeness", "noun", "ground right"]
HEADER += ["class kept, base", "class kept", "seconds", "bytes"]


def trained(name: str, method: str) -> RunFolder:
    run = RunFolder(WORK / method / name)
    if not run.vectors.exists():
        flags = ("--instance_dir", EXAMPLES / name, "--base_model", "starter", "--output_dir", run.path)
        train([str(flag) for flag in (*flags, "--method", method, "--num_validation_images", 0)])
    return run


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over subjects."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def gallery(method: str) -> None:
    """The README's picture: some subjects' comparisons side by side."""
    pictures = [Image.open(RunFolder(WORK / method / name).path / "comparison.png") for name in IN_GALLERY]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    sheet.quantize(256).save(GALLERY, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=methods.names(methods.DREAMBOOTH), default=USUAL)
    method, base = parser.parse_args().method, resolve("starter")
    pipe, scorer = load_pipeline(base), Scorer.of(base.preset)
    rows, gains, summary = [], [], []
    for name, subject in SUBJECTS.items():
        photos, cls, run = read_folder(EXAMPLES / name).images, subject.cls, trained(name, method)
        results = []
        for subjects in ([], [(run.path, 1.0)]):
            set_subjects(pipe, subjects)
            mine = scorer.score(pipe, f"sks {cls}", cls, photos)
            results.append((mine, scorer.score(pipe, f"{world.article(cls)} {cls}", cls, photos)))
        (before, class_before), (after, class_after) = results
        gains.append((after.likeness - before.likeness).mean().item())
        scores = [before.likeness, after.likeness, after.cls, after.background, class_before.cls, class_after.cls]
        summary.append([scorer.named(photos, cls), *(float(score.float().mean()) for score in scores)])
        seconds = run.read_config()["seconds"]
        cells = [f"{seconds:.0f}", f"{run.vectors.stat().st_size:,}"]
        rows.append([name, *(f"{number:.2f}" for number in summary[-1]), *cells])
        print(*rows[-1], flush=True)
        picture = {"base": before.images, "personalised": after.images, "class afterwards": class_after.images}
        columns = {title: [[images[i]] for i in SHOWN] for title, images in picture.items()}
        prompts = [f"sks {cls} {BACKGROUNDS[i]}" for i in SHOWN]
        comparison(photos[:4], columns, prompts, cell=world.SIZE).save(run.path / "comparison.png")
    low, high = interval(np.array(gains))
    rows.append(["**mean**", *(f"{n:.2f}" for n in np.array(summary).mean(0)), "", ""])
    notes = NOTES.format(gain=np.mean(gains), count=len(gains), low=low, high=high, grounds=len(BACKGROUNDS))
    result = Path(__file__).with_suffix(".md")
    if method == USUAL:
        gallery(method)
    else:
        result = result.with_stem(f"{result.stem}_{method}")
    command = shlex.join(["python", "-m", "benchmarks.starter_subjects", *sys.argv[1:]])
    write_table(result, f"The subjects of examples/: {method}", command, HEADER, rows, notes)
    print(json.dumps({"gain": float(np.mean(gains)), "interval": [low, high]}))


NOTES = """Gain in likeness: {gain:.3f}; 95 % bootstrap interval over {count} subjects: {low:.3f} to {high:.3f}.

Likeness is the mean cosine between the judge's embeddings of `sks` pictures and of the five photos. "Noun" is the
share of `sks` pictures in which the judge, which knows 206 nouns, sees the subject's; it is read beside "noun in the
photos", which the subject's own photos get. "Class kept" is the same share of pictures without `sks`. {grounds}
pictures per subject and prompt, one per ground, equal seeds for base and subject."""


if __name__ == "__main__":
    main()
