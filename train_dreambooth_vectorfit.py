#!/usr/bin/env python
"""DreamBooth with VectorFit: five photos in, a subject file out.

    accelerate launch train_dreambooth_vectorfit.py --instance_dir dog/

The recipe, top to bottom: settings, base model, class images and latents, VectorFit layers, the loop, the subject file.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import nn
from tqdm import tqdm

import vectorfit as vf
from vf_dreambooth import method as vectorfit_method
from vf_dreambooth.base_models import load
from vf_dreambooth.cli import exit_clearly
from vf_dreambooth.data import Sampler, encode_images
from vf_dreambooth.images import grid
from vf_dreambooth.objective import (
    Denoiser,
    combine,
    encode_prompts,
    per_sample_loss,
    target,
    unique_prompts,
)
from vf_dreambooth.pipeline import adapted_models, previewing, sample
from vf_dreambooth.prior import class_images, recipe_for, user_class_images
from vf_dreambooth.prompts import preview_prompts
from vf_dreambooth.setup import Setup, announce, precision, prepare, use_all_cores


def build_sampler(setup: Setup, pipe: StableDiffusionPipeline, accelerator: Accelerator) -> Sampler:
    """Class images where wanted, then every picture's latents, computed once."""
    config, prior = setup.config, None
    if config.with_prior_preservation and config.class_data_dir:
        prior = user_class_images(Path(config.class_data_dir), config.num_class_images)
    elif config.with_prior_preservation:
        recipe = recipe_for(pipe, config.class_prompt, setup.sampling, accelerator.mixed_precision, config.seed)
        root = setup.run.path.parent / "class_images"
        quiet = not accelerator.is_local_main_process
        with accelerator.main_process_first(), tqdm(desc="class images", unit="img", disable=quiet) as bar:

            def report(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            with accelerator.autocast():
                prior = class_images(pipe, recipe, config.num_class_images, root, setup.sampling, report)
    return Sampler(
        encode_images(pipe.vae, setup.photos.images, config.resolution),
        encode_images(pipe.vae, prior, config.resolution) if prior else None,
        batch_size=config.train_batch_size,
        global_batch_size=config.train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps,
        num_timesteps=pipe.scheduler.config.num_train_timesteps,
        seed=config.seed,
    )


def write_samples(setup: Setup, pipe: StableDiffusionPipeline, accelerator: Accelerator, step: int) -> None:
    """The sample grid of a step: fixed prompts, fixed seeds. Training does not notice."""
    config, count = setup.config, setup.config.num_validation_images
    if not count:
        return
    prompts = preview_prompts(config.instance_prompt, config.class_prompt)
    seeds = [*range(count)] * len(prompts)
    with previewing(pipe), accelerator.autocast():
        images = sample(pipe, [p for p in prompts for _ in range(count)], seeds, setup.sampling)
    rows = [images[index * count : (index + 1) * count] for index in range(len(prompts))]
    grid(rows, row_titles=prompts, cell=min(256, max(128, config.resolution))).save(setup.run.samples(step))


def save(setup: Setup, models: dict[str, nn.Module], path: Path) -> None:
    """The subject file; the same training gives the same bytes, so no path and no time goes into it."""
    config = setup.config
    places = ("output_dir", "instance_data_dir", "class_data_dir", "base_model", "report_to")
    settings = {name: value for name, value in config.as_dict().items() if name not in places}
    trigger = f"{config.token} {config.class_noun}" if config.class_noun else config.instance_prompt
    vf.save_vectors(
        models,
        path,
        base_model=setup.base.name,
        base_revision=setup.base.revision,
        metadata={
            "vectorfit.training": json.dumps(settings, sort_keys=True),
            "modelspec.trigger_phrase": trigger,
        },
    )


class Loss:
    """The loss of a step's micro-batches on this process."""

    def __init__(self, setup: Setup, pipe: StableDiffusionPipeline, sampler: Sampler, accelerator: Accelerator) -> None:
        config = setup.config
        self.config, self.sampler, self.accelerator = config, sampler, accelerator
        # The trainer adds noise as the base was trained, whatever sampler the pipeline came with.
        self.noise_schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        prompts = [config.instance_prompt] + ([config.class_prompt] if sampler.prior is not None else [])
        distinct, self.index = unique_prompts(prompts)
        self.prompt_ids = encode_prompts(pipe.tokenizer, distinct).to(accelerator.device)

    def backward(self, denoiser: nn.Module, step: int) -> torch.Tensor:
        """Accumulates the gradients of one update; returns loss, instance loss and class loss [3]."""
        config, accelerator = self.config, self.accelerator
        parts = torch.zeros(3, device=accelerator.device)
        for micro in range(config.gradient_accumulation_steps):
            first = (micro * accelerator.num_processes + accelerator.process_index) * config.train_batch_size
            batch = self.sampler.batch(step, first).to(accelerator.device)
            noisy = self.noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
            wanted = target(self.noise_schedule, batch.latents, batch.noise, batch.timesteps)
            prompt_index = self.index.to(accelerator.device)[batch.is_class.long()]
            with accelerator.accumulate(denoiser):
                with accelerator.autocast():
                    predicted = denoiser(noisy, batch.timesteps, self.prompt_ids, prompt_index)
                loss = combine(per_sample_loss(predicted, wanted), batch.is_class, config.prior_loss_weight)
                accelerator.backward(loss[0])
            parts += torch.stack(loss).detach() / config.gradient_accumulation_steps
        return parts


def train(setup: Setup, pipe: StableDiffusionPipeline, sampler: Sampler, accelerator: Accelerator) -> None:
    """The loop."""
    config, run, models = setup.config, setup.run, adapted_models(pipe)
    for model in models.values():
        model.requires_grad_(False)
    if not config.train_text_encoder:
        del models["text_encoder"]
    method = vectorfit_method.build(config, models)
    accelerator.print(f"method       VectorFit: {method.plan.summary()}")
    loss_of = Loss(setup, pipe, sampler, accelerator)
    denoiser, optimizer = accelerator.prepare(Denoiser(pipe.unet, pipe.text_encoder), method.optimizer)
    if accelerator.is_main_process:
        write_samples(setup, pipe, accelerator, 0)
    per_step = sampler.global_batch_size * (1 if sampler.prior is None else 2)
    steps = range(1, config.max_train_steps + 1)
    bar = tqdm(steps, desc="training", unit="step", disable=not accelerator.is_local_main_process)
    for step in bar:
        parts = loss_of.backward(denoiser, step)
        frozen = method.freeze(step)
        norm = accelerator.clip_grad_norm_(method.vectors.values(), config.max_grad_norm)
        optimizer.step()
        method.schedule.step()
        optimizer.zero_grad(set_to_none=True)
        loss, instance, prior = accelerator.reduce(parts, "mean").tolist()
        if not math.isfinite(loss):
            raise vf.VectorFitError(
                f"the loss is {loss} at step {step}; lower --learning_rate ({config.learning_rate})"
            )
        bar.set_postfix(loss=f"{loss:.3f}", images_per_s=f"{per_step * (bar.format_dict['rate'] or 0):.1f}")
        entry = {"step": step, "loss": loss, "instance_loss": instance, "class_loss": prior}
        entry |= {"lr": method.schedule.get_last_lr()[0], "grad_norm": float(norm)}
        accelerator.log(entry, step=step)
        if not accelerator.is_main_process:
            continue
        run.append_log({**entry, "frozen": list(frozen)})
        if step % config.checkpointing_steps == 0 or step == config.max_train_steps:
            save(setup, models, run.checkpoint(step) / "vectors.safetensors")
            write_samples(setup, pipe, accelerator, step)
    if accelerator.is_main_process:
        save(setup, models, run.vectors)


def main(arguments: Sequence[str] | None = None) -> None:
    setup = prepare(arguments)
    config, run, base = setup.config, setup.run, setup.base
    accelerator = Accelerator(
        mixed_precision=precision(config),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.report_to,
        project_dir=run.path,
    )
    if accelerator.device.type == "cpu":
        use_all_cores(accelerator.num_processes)
    announce(setup, accelerator.print)
    began = time.perf_counter()
    pipe = load(base, config.variant).to(accelerator.device)
    if config.report_to:
        settings = {name: value for name, value in config.as_dict().items() if value is not None}
        accelerator.init_trackers("tensorboard", settings)
    sampler = build_sampler(setup, pipe, accelerator)
    origin = {
        "name": base.name,
        "location": base.name if config.base_model == "auto" else config.base_model,
        "revision": base.revision,
    }
    record = {"settings": config.as_dict(), "base": origin}
    if accelerator.is_main_process:
        run.log.unlink(missing_ok=True)
        run.write_config(record)
    train(setup, pipe, sampler, accelerator)
    if accelerator.is_main_process:
        run.write_config({**record, "seconds": round(time.perf_counter() - began, 1)})
        accelerator.print(f"subject file {run.vectors} ({run.vectors.stat().st_size:,} bytes)")
    accelerator.end_training()


def run() -> None:
    """The console script."""
    exit_clearly(main)


if __name__ == "__main__":
    run()
