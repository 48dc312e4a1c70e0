"""Generates pictures of a subject into a folder: what `python -m vf_dreambooth.generate` does."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from vf_training.runs import RunFolder

from .images import comparison, grid, write_png
from .photos import read_folder
from .pipeline import GenerationSettings, base_of, folder_of, generate_images, load_pipeline, set_subjects


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"


def _references(vectors: Path) -> list[Image.Image]:
    """The photos that a run was trained on, if their folder still exists."""
    run = RunFolder(folder_of(vectors))
    if not run.config.exists():
        return []
    folder = Path(run.read_config()["settings"]["instance_data_dir"])
    return read_folder(folder).images if folder.is_dir() else []


def _rows(
    pipe: DiffusionPipeline, flags: argparse.Namespace, settings: GenerationSettings, what: str
) -> list[list[Image.Image]]:
    """A row of pictures per prompt. Equal seeds of several prompts share no batch, so one at a time takes no longer."""
    seeds = [flags.seed + index for index in range(flags.num)]
    bar = tqdm(flags.prompts, desc=what, unit="prompt")
    return [generate_images(pipe, [prompt] * len(seeds), seeds, settings) for prompt in bar]


def write_pictures(flags: argparse.Namespace) -> Iterator[Path]:
    """Generates what the command's flags ask for, and gives the path of every sheet when it is written.

    Raises:
        VectorFitError: the subject is damaged or of another base, or the base cannot be loaded.
    """
    base = base_of(flags.vectors, flags.base_model)
    pipe = load_pipeline(base, [(flags.vectors, flags.strength)])
    preset = base.preset
    settings = replace(
        GenerationSettings.of(preset),
        num_inference_steps=flags.num_inference_steps or preset.num_inference_steps,
        guidance_scale=preset.guidance_scale if flags.guidance_scale is None else flags.guidance_scale,
        negative_prompt=flags.negative_prompt,
    )
    out = flags.out or folder_of(flags.vectors) / "generated"
    out.mkdir(parents=True, exist_ok=True)
    rows = _rows(pipe, flags, settings, "drawing the subject")
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
    yield out / "grid.png"
    if flags.compare:
        set_subjects(pipe, [])
        columns = {"base": _rows(pipe, flags, settings, "drawing the base"), "personalised": rows}
        comparison(_references(flags.vectors), columns, flags.prompts, cell=cell).save(out / "comparison.png")
        yield out / "comparison.png"
