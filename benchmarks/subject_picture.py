"""The README's picture of a subject. `python -m benchmarks.subject_picture RUN`

A row of the photos it was trained on, then three prompts: a row by the base, a row with the subject, at equal seeds.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vf_dreambooth.images import square
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import GenerationSettings, base_of, generate_images, load_pipeline, set_subjects
from vf_training.commands import hide_loading_bars
from vf_training.runs import RunFolder

PICTURE = Path(__file__).parents[1] / "docs" / "subject.jpg"
SCENES = ("a photo of {} in the snow", "{} on the beach", "{} in the jungle")
WIDTH, GAP, PHOTOS = 1200, 12, 5


def rows_of(run: RunFolder, scenes: tuple[str, ...], seed: int) -> tuple[list[str], list[list[Image.Image]]]:
    """The prompts; and the photos, the base's pictures and the subject's."""
    settings = run.read_config()["settings"]
    prompts = [scene.format(f"{settings['token']} {settings['class_noun']}") for scene in scenes]
    base = base_of(run.path)
    pipe, generation = load_pipeline(base), GenerationSettings.of(base.preset)
    rows = [read_folder(Path(settings["instance_data_dir"])).images[:PHOTOS]]
    for subjects in ([], [(run.path, 1.0)]):
        set_subjects(pipe, subjects)
        rows.append(generate_images(pipe, prompts, [seed] * len(prompts), generation))
    return prompts, rows


def sheet(prompts: list[str], rows: list[list[Image.Image]]) -> Image.Image:
    """The rows under each other, each as wide as the sheet."""
    title, font = 36, ImageFont.load_default(22)
    titles = [f"{len(rows[0])} photos", "before", "after"]
    sides = [(WIDTH - GAP * (len(row) + 1)) // len(row) for row in rows]
    result = Image.new("RGB", (WIDTH, sum(side + title for side in sides) + title), "white")
    draw, top = ImageDraw.Draw(result), 0
    for name, row, side in zip(titles, rows, sides, strict=True):
        draw.text((GAP, top + 6), name, fill="black", font=font)
        for column, image in enumerate(row):
            enlarged = square(image, image.width).resize((side, side), Image.Resampling.LANCZOS)
            result.paste(enlarged, (GAP + column * (side + GAP), top + title))
        top += side + title
    for column, prompt in enumerate(prompts):
        draw.text((GAP + column * (sides[-1] + GAP), top + 6), f"“{prompt}”", fill=(80, 80, 80), font=font)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder of a subject")
    parser.add_argument("--prompts", nargs=3, default=SCENES, help="three prompts, with {} for the subject")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PICTURE, help="default docs/subject.jpg")
    flags = parser.parse_args()
    hide_loading_bars()
    prompts, rows = rows_of(RunFolder(flags.run), tuple(flags.prompts), flags.seed)
    sheet(prompts, rows).save(flags.out, quality=88, optimize=True)
    print(flags.out)


if __name__ == "__main__":
    main()
