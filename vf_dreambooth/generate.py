"""The command that generates images of a subject: `python -m vf_dreambooth.generate --vectors RUN --prompt "..."`."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from vectorfit import VectorFitError
from vf_training.commands import exit_clearly
from vf_training.runs import RunFolder

from .images import comparison, grid, write_png
from .photos import read_folder
from .pipeline import GenerationSettings, base_of, generate_images, load_pipeline, set_subjects


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vf_dreambooth.generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--vectors", required=True, type=Path, help="run folder or subject file")
    parser.add_argument(
        "--prompt", required=True, action="append", dest="prompts", help="prompt; may be given several times"
    )
    parser.add_argument("--num", type=int, default=4, help="images per prompt (default 4)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first image; the next images use the next seeds (default 0)"
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, help="0 is the base model, 1 the trained subject (default 1)"
    )
    parser.add_argument("--negative_prompt", default="", help="what the images should not show")
    parser.add_argument("--num_inference_steps", type=int, help="denoising steps; by default the base's preset")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance; by default the base's preset")
    parser.add_argument("--base_model", help="by default the one the subject was trained on")
    parser.add_argument("--out", type=Path, help="folder for the images; by default generated/ in the run folder")
    parser.add_argument(
        "--compare", action="store_true", help="also write comparison.png: photos, base and personalised"
    )
    return parser


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"


def _references(vectors: Path) -> list[Image.Image]:
    """The photos that a run was trained on, if their folder still exists."""
    run = RunFolder(vectors if vectors.is_dir() else vectors.parent)
    if not run.config.exists():
        return []
    folder = Path(run.read_config()["settings"]["instance_data_dir"])
    return read_folder(folder).images if folder.is_dir() else []


def _rows(
    pipe: DiffusionPipeline, prompts: Sequence[str], flags: argparse.Namespace, settings: GenerationSettings
) -> list[list[Image.Image]]:
    seeds = [flags.seed + index for index in range(flags.num)]
    images = generate_images(pipe, [p for p in prompts for _ in seeds], seeds * len(prompts), settings)
    return [images[index * flags.num : (index + 1) * flags.num] for index in range(len(prompts))]


def main(arguments: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(arguments)
    if flags.num < 1:
        raise VectorFitError(f"--num: got {flags.num}, expected at least 1")
    if not math.isfinite(flags.strength):
        raise VectorFitError(f"--strength: got {flags.strength}, expected a number")
    if flags.num_inference_steps is not None and flags.num_inference_steps < 1:
        raise VectorFitError(f"--num_inference_steps: got {flags.num_inference_steps}, expected at least 1")
    base = base_of(flags.vectors, flags.base_model)
    pipe = load_pipeline(base, [(flags.vectors, flags.strength)])
    preset = base.preset
    settings = replace(
        GenerationSettings.of(preset),
        num_inference_steps=flags.num_inference_steps or preset.num_inference_steps,
        guidance_scale=preset.guidance_scale if flags.guidance_scale is None else flags.guidance_scale,
        negative_prompt=flags.negative_prompt,
    )
    out = flags.out or (flags.vectors if flags.vectors.is_dir() else flags.vectors.parent) / "generated"
    out.mkdir(parents=True, exist_ok=True)
    rows = _rows(pipe, flags.prompts, flags, settings)
    for number, (prompt, row) in enumerate(zip(flags.prompts, rows, strict=True)):
        for index, image in enumerate(row):
            parameters = {
                "prompt": prompt,
                "seed": flags.seed + index,
                "strength": flags.strength,
                "base_model": base.name,
            }
            parameters |= {name: value for name, value in vars(settings).items() if name != "batch_size"}
            write_png(out / f"{number:02d}-{_file_name(prompt)}-{flags.seed + index}.png", image, parameters)
    cell = min(256, max(128, settings.resolution))
    grid(rows, row_titles=flags.prompts, cell=cell).save(out / "grid.png")
    print(out / "grid.png")
    if flags.compare:
        set_subjects(pipe, [])
        columns = {"base": _rows(pipe, flags.prompts, flags, settings), "personalised": rows}
        comparison(_references(flags.vectors), columns, flags.prompts, cell=cell).save(out / "comparison.png")
        print(out / "comparison.png")


def run() -> None:
    """The console script."""
    exit_clearly(main)


if __name__ == "__main__":
    run()
