"""Class images: images that the base generates of the class. Training with them keeps the class as it is."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

from .base_models import fingerprint
from .families import family_of
from .images import write_png
from .photos import READABLE, open_photo, photo_paths
from .pipeline import GenerationSettings, generate_images
from .randomness import generator
from .residency import unchecked

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Recipe:
    """Everything that class images depend on. Different recipes have different folders."""

    base_sha256: str
    prompt: str
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    resolution: int
    precision: str
    seed: int

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def recipe_for(pipe: DiffusionPipeline, prompt: str, settings: GenerationSettings, precision: str, seed: int) -> Recipe:
    return Recipe(
        fingerprint(*family_of(pipe).image_models(pipe)),
        prompt,
        f"{type(pipe.scheduler).__name__} {json.dumps(dict(pipe.scheduler.config), sort_keys=True, default=str)}",
        settings.num_inference_steps,
        settings.guidance_scale,
        settings.resolution,
        precision,
        seed,
    )


def image_seed(seed: int, index: int) -> int:
    """The seed of one class image. It does not depend on the number of images or processes."""
    return generator(seed, "class image", index).initial_seed() % 2**32


def _check_manifest(folder: Path, recipe: Recipe) -> None:
    """Raises VectorFitError when the images of the folder were made by another recipe."""
    manifest, expected = folder / MANIFEST, asdict(recipe)
    try:
        recorded = dict(json.loads(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise VectorFitError(f"{manifest}: cannot be read ({error}); delete that folder") from error
    different = [name for name in expected if recorded.get(name) != expected[name]]
    if different:
        differences = "; ".join(
            f"{name}: made with {recorded.get(name)!r}, wanted {expected[name]!r}" for name in different
        )
        raise VectorFitError(f"{manifest}: the class images do not fit this run ({differences}); delete that folder")


def class_images(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    count: int,
    root: Path,
    settings: GenerationSettings,
    accelerator: Accelerator,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """The first `count` class images of a recipe. They are kept in a folder under `root`; missing ones are generated.

    The processes share the work in whole batches. A batch always has the same images, the last one too. So an image
    does not depend on the number of processes, on `count`, or on which images exist already. With another batch size
    or another number of threads it may differ by rounding.

    Raises:
        VectorFitError: the manifest of the folder has another recipe, or several machines do not share the folder.
    """
    folder = root / recipe.key
    if accelerator.is_main_process and not (folder / MANIFEST).exists():
        write_atomically(folder / MANIFEST, (json.dumps(asdict(recipe), indent=2) + "\n").encode())
    accelerator.wait_for_everyone()
    _check_manifest(folder, recipe)  # in every process: if only one failed, the others would wait for ever
    paths = [folder / f"{index:04d}.png" for index in range(count)]
    batches = [range(start, start + settings.batch_size) for start in range(0, count, settings.batch_size)]
    missing = [batch for batch in batches if not all(path.exists() for path in paths[batch.start : batch.stop])]
    accelerator.wait_for_everyone()  # so that all processes see the same ones missing, nothing is written before
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    for number, batch in enumerate(mine):
        with unchecked(pipe), accelerator.autocast():
            seeds = [image_seed(recipe.seed, index) for index in batch]
            images = generate_images(pipe, [recipe.prompt] * len(batch), seeds, settings, positions=batch)
        for index, image in zip(batch, images, strict=True):
            if index < count and not paths[index].exists():
                write_png(paths[index], image)
        report(number + 1, len(mine))
    accelerator.wait_for_everyone()
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        raise VectorFitError(
            f"{folder}: {absent[0]} and {len(absent) - 1} more class images are not here; another machine drew them. "
            "Put --output_dir on a file system that all machines share, or give the images with --class_data_dir"
        )
    return [open_photo(path) for path in paths]


def user_class_paths(folder: Path, count: int) -> tuple[list[Path], int]:
    """The first `count` files of the user's own class images, and how many the folder has.

    Raises:
        VectorFitError: the folder is missing, or has no photo.
    """
    try:
        paths = photo_paths(folder)
    except VectorFitError as error:
        raise VectorFitError(f"--class_data_dir: {error}") from error
    if not paths:
        raise VectorFitError(f"--class_data_dir: {folder} has no {READABLE} files; expected pictures of the class")
    return paths[:count], len(paths)
