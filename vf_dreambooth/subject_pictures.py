"""Generates pictures of subjects into a folder: what `python -m vf_dreambooth.generate` does."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

import vectorfit as vf
from vf_training.runs import RunFolder

from .engine import MOST_TOGETHER
from .images import comparison, grid, write_png
from .photos import read_folder
from .pipeline import (
    GenerationSettings,
    base_of,
    folder_of,
    generate,
    generate_images,
    load_pipeline,
    set_subjects,
    subject_bank,
    subject_file,
)
from .presets import Preset


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"


def _references(vectors: Path) -> list[Image.Image]:
    """The photos that a run was trained on, if their folder still exists."""
    run = RunFolder(folder_of(vectors))
    if not run.config.exists():
        return []
    folder = Path(run.read_config()["settings"]["instance_data_dir"])
    return read_folder(folder).images if folder.is_dir() else []


def _triggers(subjects: Sequence[Path]) -> list[str]:
    """The words that call each subject."""
    return [vf.read_metadata(subject_file(path)).get("modelspec.trigger_phrase", "") for path in subjects]


def _names(subjects: Sequence[Path]) -> list[str]:
    """A name for each subject, of its run folder or file, numbered where two have the same."""
    names = [path.name if path.suffix != ".safetensors" else path.stem for path in subjects]
    return [name if names.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(names)]


def _filled(prompts: Sequence[str], trigger: str) -> list[str]:
    return [prompt.replace("{}", trigger) for prompt in prompts]


def _rows(
    pipe: DiffusionPipeline, prompts: Sequence[str], flags: argparse.Namespace, settings: GenerationSettings
) -> list[list[Image.Image]]:
    seeds = [flags.seed + index for index in range(flags.num)]
    images = generate_images(pipe, [p for p in prompts for _ in seeds], seeds * len(prompts), settings)
    return [images[index * flags.num : (index + 1) * flags.num] for index in range(len(prompts))]


def _mixed_rows(
    pipe: DiffusionPipeline, prompts: Sequence[Sequence[str]], flags: argparse.Namespace, settings: GenerationSettings
) -> list[list[list[Image.Image]]]:
    """By subject a row for each of its prompts. All are drawn in mixed batches of up to `MOST_TOGETHER` pictures."""
    wanted = [
        (str(path), prompt, flags.seed + index)
        for path, own in zip(flags.vectors, prompts, strict=True)
        for prompt in own
        for index in range(flags.num)
    ]
    size = max(settings.batch_size, min(MOST_TOGETHER, len(wanted)))
    bank = subject_bank(pipe, flags.vectors)

    def rows(indices: list[int]) -> AbstractContextManager:
        return bank.rows([{wanted[index][0]: flags.strength} for index in indices])

    _, all_prompts, seeds = zip(*wanted, strict=True)
    places = range(len(wanted))
    drawn = generate(pipe, all_prompts, seeds, replace(settings, batch_size=size), positions=places, within=rows)
    images = iter(one.image for one in drawn)
    return [[[next(images) for _ in range(flags.num)] for _ in own] for own in prompts]


def _settings(flags: argparse.Namespace, preset: Preset) -> GenerationSettings:
    return replace(
        GenerationSettings.of(preset),
        num_inference_steps=flags.num_inference_steps or preset.num_inference_steps,
        guidance_scale=preset.guidance_scale if flags.guidance_scale is None else flags.guidance_scale,
        negative_prompt=flags.negative_prompt,
    )


def _write_rows(
    out: Path,
    name: str,
    prompts: Sequence[str],
    rows: Sequence[Sequence[Image.Image]],
    flags: argparse.Namespace,
    made_with: dict[str, object],
) -> None:
    """Writes the pictures of a subject, each with its settings."""
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        for index, image in enumerate(row):
            parameters = {"prompt": prompt, "seed": flags.seed + index, "strength": flags.strength, **made_with}
            write_png(out / f"{name}{number:02d}-{_file_name(prompt)}-{flags.seed + index}.png", image, parameters)


def write_pictures(flags: argparse.Namespace) -> Iterator[Path]:
    """Generates what the command's flags ask for, and gives the path of every sheet when it is written.

    Raises:
        VectorFitError: the subject is damaged or of another base, or the base cannot be loaded.
    """
    subjects: list[Path] = flags.vectors
    base, several = base_of(subjects[0], flags.base_model), len(subjects) > 1
    settings = _settings(flags, base.preset)
    prompts = [_filled(flags.prompts, trigger) for trigger in _triggers(subjects)]
    pipe = load_pipeline(base, [] if several else [(subjects[0], flags.strength)])
    out = flags.out or (Path("generated") if several else folder_of(subjects[0]) / "generated")
    out.mkdir(parents=True, exist_ok=True)
    rows = _mixed_rows(pipe, prompts, flags, settings) if several else [_rows(pipe, prompts[0], flags, settings)]
    made_with = {"base_model": base.name, **{k: v for k, v in vars(settings).items() if k != "batch_size"}}
    names = _names(subjects)
    for name, own_prompts, own in zip(names, prompts, rows, strict=True):
        _write_rows(out, f"{name}-" if several else "", own_prompts, own, flags, made_with)
    cell = min(256, max(128, settings.resolution))
    sheet = [[image for own in rows for image in own[place]] for place in range(len(flags.prompts))]
    titles = [name for name in names for _ in range(flags.num)] if several else ()
    titled = flags.prompts if several else prompts[0]
    grid(sheet, row_titles=titled, column_titles=titles, cell=cell).save(out / "grid.png")
    yield out / "grid.png"
    if flags.compare:
        set_subjects(pipe, [])
        columns = {"base": _rows(pipe, prompts[0], flags, settings), "personalised": rows[0]}
        comparison(_references(subjects[0]), columns, prompts[0], cell=cell).save(out / "comparison.png")
        yield out / "comparison.png"
