#!/usr/bin/env python
"""DreamBooth with VectorFit: five photos in, a subject file out.

    accelerate launch train_dreambooth_vectorfit.py --instance_dir dog/

The recipe, top to bottom: settings, base model, class images, VectorFit layers, the loop, the subject file.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from tqdm import tqdm

import vectorfit as vf
from vectorfit.runs import RunFolder
from vf_dreambooth.base_models import BaseModel, load, resolve
from vf_dreambooth.cli import exit_clearly, parse
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.data import Sampler, encode_images
from vf_dreambooth.images import Photos, grid, read_folder
from vf_dreambooth.objective import Denoiser, combine, encode_prompts, per_sample_loss, target, unique_prompts
from vf_dreambooth.pipeline import Sampling, adapted_models, previewing, sample
from vf_dreambooth.prior import class_images, recipe_for, user_class_images
from vf_dreambooth.prompts import preview_prompts


@dataclass
class Setup:
    """What a run consists of, once it is certain that it can begin."""

    config: TrainConfig
    base: BaseModel
    photos: Photos
    run: RunFolder
    sampling: Sampling


def prepare(arguments: Sequence[str] | None) -> Setup:
    """Settings and photos, checked before any model is loaded."""
    given = parse(arguments)
    base = resolve(given.base_model, given.revision)
    config = given.completed(base.preset)
    photos = read_folder(Path(config.instance_data_dir))
    run = RunFolder(config.output_dir)
    if run.vectors.exists():
        raise vf.VectorFitError(f"--output_dir: {run.path} holds a finished run; give another folder or delete it")
    sampling = Sampling(
        base.preset.num_inference_steps, base.preset.guidance_scale, config.resolution, config.sample_batch_size
    )
    return Setup(config, base, photos, run, sampling)


def announce(setup: Setup, say) -> None:
    """Everything chosen or inferred, before work starts."""
    config, photos = setup.config, setup.photos
    say(f"base model   {setup.base.name}" + (" (--base_model chooses another)" if config.base_model == "auto" else ""))
    say(f"photos       {len(photos.images)} from {config.instance_data_dir}")
    if photos.ignored:
        say(f"             passed over, not photos: {', '.join(photos.ignored)}")
    say(f"prompts      {config.instance_prompt!r} for the subject, {config.class_prompt!r} for its class")
    prior = config.class_data_dir or f"{config.num_class_images} class images, weight {config.prior_loss_weight}"
    say(f"prior        {prior if config.with_prior_preservation else 'none'}")
    images = config.train_batch_size * (2 if config.with_prior_preservation else 1)
    say(
        f"training     {config.max_train_steps} steps of {images} images, rate {config.learning_rate}, seed {config.seed}"
    )
    freezing = f"top {config.avf_top_k} at step {config.avf_first_step}, then every {config.avf_every}, {config.avf_num_freezes} times"
    say(f"freezing     {freezing if config.avf else 'none'}")
    say(f"run folder   {setup.run.path}")


def precision(config: TrainConfig) -> str | None:
    """The mixed precision to ask accelerate for; None leaves the choice made with `accelerate launch`."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return None
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def build_sampler(setup: Setup, pipe: StableDiffusionPipeline, accelerator: Accelerator) -> Sampler:
    """Class images where wanted, then every picture's latents, computed once."""
    config, prior = setup.config, None
    if config.with_prior_preservation and config.class_data_dir:
        prior = user_class_images(Path(config.class_data_dir), config.num_class_images)
    elif config.with_prior_preservation:
        recipe = recipe_for(pipe, config.class_prompt, setup.sampling, config.seed)
        bar = tqdm(desc="class images", unit="img", disable=not accelerator.is_local_main_process)

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with accelerator.main_process_first():
            prior = class_images(
                pipe, recipe, config.num_class_images, setup.run.path.parent / "class_images", setup.sampling, report
            )
        bar.close()
    batch, micro_batches = config.train_batch_size, accelerator.num_processes * config.gradient_accumulation_steps
    return Sampler(
        encode_images(pipe.vae, setup.photos.images, config.resolution),
        encode_images(pipe.vae, prior, config.resolution) if prior else None,
        batch_size=batch,
        global_batch_size=batch * micro_batches,
        num_timesteps=pipe.scheduler.config.num_train_timesteps,
        seed=config.seed,
    )


def write_samples(setup: Setup, pipe: StableDiffusionPipeline, step: int) -> None:
    """The sample grid of a step: fixed prompts, fixed seeds. Training does not notice."""
    config, count = setup.config, setup.config.num_validation_images
    if not count:
        return
    prompts = preview_prompts(config.instance_prompt, config.class_prompt)
    with previewing(pipe):
        images = sample(
            pipe, [p for p in prompts for _ in range(count)], [*range(count)] * len(prompts), setup.sampling
        )
    rows = [images[index * count : (index + 1) * count] for index in range(len(prompts))]
    grid(rows, row_titles=prompts, cell=min(256, max(128, config.resolution))).save(setup.run.samples(step))


def save(setup: Setup, pipe: StableDiffusionPipeline, path: Path) -> None:
    """The subject file: the same training gives the same bytes."""
    config = setup.config
    inferred = {
        k: v
        for k, v in config.as_dict().items()
        if k not in ("output_dir", "instance_data_dir", "class_data_dir", "base_model")
    }
    metadata = {
        "vectorfit.training": json.dumps(inferred, sort_keys=True),
        "modelspec.trigger_phrase": f"{config.token} {config.class_noun}"
        if config.class_noun
        else config.instance_prompt,
    }
    vf.save_vectors(
        adapted_models(pipe) if config.train_text_encoder else {"unet": pipe.unet},
        path,
        base_model=setup.base.name,
        base_revision=setup.base.revision,
        metadata=metadata,
    )


def train(setup: Setup, pipe: StableDiffusionPipeline, sampler: Sampler, accelerator: Accelerator) -> None:
    """The loop."""
    config, models = setup.config, adapted_models(pipe)
    trained = models if config.train_text_encoder else {"unet": pipe.unet}
    for model in models.values():
        model.requires_grad_(False)
    accelerator.print(f"method       VectorFit: {vf.inject(trained).summary()}")
    vectors = vf.vector_parameters(trained)
    optimizer = torch.optim.AdamW(
        vectors.values(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    avf = None
    if config.avf:
        timing = {"first_step": config.avf_first_step, "every": config.avf_every, "num_freezes": config.avf_num_freezes}
        avf = vf.AdaptiveVectorFreezing(trained, **timing, top_k=config.avf_top_k)
    if config.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
        pipe.text_encoder.gradient_checkpointing_enable()
    for model in trained.values():
        model.train()
    denoiser, optimizer = accelerator.prepare(Denoiser(pipe.unet, pipe.text_encoder), optimizer)
    noise_schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    class_prompt = [config.class_prompt] if sampler.prior is not None else []
    prompts, _ = unique_prompts([config.instance_prompt, *class_prompt])
    prompt_ids = encode_prompts(pipe.tokenizer, prompts).to(accelerator.device)
    images_per_step = sampler.global_batch_size * (2 if sampler.prior is not None else 1)
    if accelerator.is_main_process:
        write_samples(setup, pipe, 0)
    bar = tqdm(
        range(1, config.max_train_steps + 1),
        desc="training",
        unit="step",
        disable=not accelerator.is_local_main_process,
    )
    for step in bar:
        parts = torch.zeros(3, device=accelerator.device)
        for micro in range(config.gradient_accumulation_steps):
            first = (micro * accelerator.num_processes + accelerator.process_index) * config.train_batch_size
            batch = sampler.batch(step, first).to(accelerator.device)
            with accelerator.accumulate(denoiser), accelerator.autocast():
                noisy = noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
                wanted = target(noise_schedule, batch.latents, batch.noise, batch.timesteps)
                prompt_index = batch.is_class.long().clamp(max=len(prompts) - 1)
                prediction = denoiser(noisy, batch.timesteps, prompt_ids, prompt_index)
                loss = combine(per_sample_loss(prediction, wanted), batch.is_class, config.prior_loss_weight)
                accelerator.backward(loss[0])
                parts += torch.stack(loss).detach() / config.gradient_accumulation_steps
        frozen = avf.step(step) if avf else ()
        norm = accelerator.clip_grad_norm_(vectors.values(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        loss, instance, prior = accelerator.reduce(parts, "mean").tolist()
        if not math.isfinite(loss):
            raise vf.VectorFitError(
                f"the loss is {loss} at step {step}; lower --learning_rate (now {config.learning_rate})"
            )
        bar.set_postfix(loss=f"{loss:.3f}", images_per_s=f"{images_per_step * (bar.format_dict['rate'] or 0):.1f}")
        entry = {"step": step, "loss": loss, "instance_loss": instance, "class_loss": prior}
        entry |= {"lr": schedule.get_last_lr()[0], "grad_norm": float(norm)}
        accelerator.log(entry, step=step)
        if accelerator.is_main_process:
            setup.run.append_log({**entry, "frozen": list(frozen)})
            if step % config.checkpointing_steps == 0 or step == config.max_train_steps:
                save(setup, pipe, setup.run.checkpoint(step) / "vectors.safetensors")
                write_samples(setup, pipe, step)


def main(arguments: Sequence[str] | None = None) -> None:
    setup = prepare(arguments)
    config, run = setup.config, setup.run
    accelerator = Accelerator(
        mixed_precision=precision(config),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.report_to,
        project_dir=run.path,
    )
    announce(setup, accelerator.print)
    began = time.perf_counter()
    pipe = load(setup.base, config.variant).to(accelerator.device)
    if config.report_to:
        accelerator.init_trackers("dreambooth", {k: v for k, v in config.as_dict().items() if v is not None})
    sampler = build_sampler(setup, pipe, accelerator)
    record = {"settings": config.as_dict(), "base": {"name": setup.base.name, "location_given": config.base_model}}
    record["base"]["revision"] = setup.base.revision
    if accelerator.is_main_process:
        run.path.mkdir(parents=True, exist_ok=True)
        run.log.unlink(missing_ok=True)
        run.write_config(record)
    train(setup, pipe, sampler, accelerator)
    if accelerator.is_main_process:
        save(setup, pipe, run.vectors)
        run.write_config({**record, "seconds": round(time.perf_counter() - began, 1)})
        print(f"\nsubject file {run.vectors} ({run.vectors.stat().st_size:,} bytes)")
    accelerator.end_training()


if __name__ == "__main__":
    exit_clearly(main)
