"""The subjects of examples/ at the preset, against the base. `python -m benchmarks.starter_subjects`"""

import json
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
from vf_dreambooth.pipeline import GenerationSettings, load_pipeline, set_subjects
from vf_training.runs import RunFolder

WORK = Path("runs/subjects")
RESULT = Path(__file__).with_suffix(".md")
GALLERY = Path(__file__).parents[1] / "docs" / "comparison.png"
SHOWN = (0, 1, 3, 8)  # backgrounds of the pictures in the README


def trained(name: str) -> RunFolder:
    run = RunFolder(WORK / name)
    if not run.vectors.exists():
        flags = ("--instance_dir", EXAMPLES / name, "--base_model", "starter", "--output_dir", run.path)
        train([str(flag) for flag in (*flags, "--num_validation_images", 0)])
    return run


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over subjects."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def gallery(names: tuple[str, ...]) -> None:
    """The README's picture: some subjects' comparisons side by side."""
    pictures = [Image.open(RunFolder(WORK / name).path / "comparison.png") for name in names]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    GALLERY.parent.mkdir(exist_ok=True)
    sheet.quantize(256).save(GALLERY, optimize=True)


def main() -> None:
    base = resolve("starter")
    pipe, scorer = load_pipeline(base), Scorer(GenerationSettings.of(base.preset, 12))
    rows, gains, summary = [], [], []
    for name, subject in SUBJECTS.items():
        photos, cls, run = read_folder(EXAMPLES / name).images, subject.cls, trained(name)
        results = []
        for subjects in ([], [(run.path, 1.0)]):
            set_subjects(pipe, subjects)
            mine = scorer.score(pipe, f"sks {cls}", cls, photos)
            results.append((mine, scorer.score(pipe, f"{world.article(cls)} {cls}", cls, photos)))
        (before, class_before), (after, class_after) = results
        gains.append((after.likeness - before.likeness).mean().item())
        numbers = [before.likeness.mean(), after.likeness.mean(), after.background.float().mean()]
        numbers += [class_before.cls.float().mean(), class_after.cls.float().mean()]
        summary.append([float(number) for number in numbers])
        seconds = run.read_config()["seconds"]
        rows.append([name, *(f"{n:.2f}" for n in numbers), f"{seconds:.0f}", f"{run.vectors.stat().st_size:,}"])
        print(*rows[-1], flush=True)
        picture = {"base": before.images, "personalised": after.images, "class afterwards": class_after.images}
        columns = {title: [[images[i]] for i in SHOWN] for title, images in picture.items()}
        prompts = [f"sks {cls} {BACKGROUNDS[i]}" for i in SHOWN]
        comparison(photos[:4], columns, prompts, cell=128).save(run.path / "comparison.png")
    gallery(("clock", "car", "teapot"))
    low, high = interval(np.array(gains))
    means = np.array(summary).mean(0)
    rows.append(["**mean**", *(f"{n:.2f}" for n in means), "", ""])
    notes = f"Gain in likeness: {np.mean(gains):.3f}; 95 % bootstrap interval over {len(gains)} subjects: "
    notes += f"{low:.3f} to {high:.3f}."
    notes += " Twelve pictures per subject and prompt, one per background, seeds 0 to 11, equal for base and subject."
    header = [
        "subject",
        "likeness, base",
        "likeness",
        "background right",
        "class kept, base",
        "class kept",
        "seconds",
        "bytes",
    ]
    write_table(RESULT, "The subjects of examples/", "python -m benchmarks.starter_subjects", header, rows, notes)
    print(json.dumps({"gain": float(np.mean(gains)), "interval": [low, high]}))


if __name__ == "__main__":
    main()
