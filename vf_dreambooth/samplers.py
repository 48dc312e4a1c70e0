"""Builds what gives a run its batches: the latents of its photos and class images, computed once."""

from dataclasses import replace

from accelerate import Accelerator
from diffusers import DiffusionPipeline
from tqdm import tqdm

from .data import DataSampler, Latents, encode_images, encode_photos
from .families import family_of
from .images import square
from .photos import open_photo
from .pipeline import quickly
from .prior import class_images, recipe_for
from .setup import Setup


def class_latents(setup: Setup, pipe: DiffusionPipeline, accelerator: Accelerator) -> Latents | None:
    """The latents of the class images, if the prior uses them. Missing class images are generated first."""
    config = setup.config
    if not config.with_class_images:
        return None
    if setup.class_paths:
        return encode_images(pipe, [[square(open_photo(path), config.resolution)] for path in setup.class_paths])
    with quickly(pipe, setup.base.preset):
        recipe = recipe_for(pipe, config.class_prompt, setup.generation, accelerator.mixed_precision, config.seed)
        root = setup.run.path.parent / "class_images"
        quiet = not accelerator.is_local_main_process
        with tqdm(desc="class images", unit="batch", disable=quiet) as bar:

            def report(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            images = class_images(pipe, recipe, config.num_class_images, root, setup.generation, accelerator, report)
    return encode_images(pipe, [[square(image, config.resolution)] for image in images])


def build_data_sampler(
    setup: Setup, pipe: DiffusionPipeline, accelerator: Accelerator, priors: dict[tuple, Latents | None] | None = None
) -> DataSampler:
    """Computes the latents of every image once, and samples the batches from them.

    `priors` are the class images' latents that other runs on the pipeline have had, by their classes; the run shares
    them, and adds its own.
    """
    config, priors = setup.config, {} if priors is None else priors
    of_class = config.class_prompt, tuple(setup.class_paths), setup.run.path.parent
    if of_class not in priors:
        priors[of_class] = class_latents(setup, pipe, accelerator)
    prior = priors[of_class]
    photos = encode_photos(pipe, setup.photos, config)
    if config.prior == "base_prediction":
        prior = replace(photos, weights=None)  # the class is kept on the ground too
    return DataSampler(
        photos,
        prior,
        batch_size=config.train_batch_size,
        global_batch_size=config.effective_batch_size * accelerator.num_processes,
        noise_schedule=family_of(pipe).noise_schedule(pipe),
        seed=config.seed,
        offset_noise=config.offset_noise,
    )
