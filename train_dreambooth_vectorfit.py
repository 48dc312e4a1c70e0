#!/usr/bin/env python
"""DreamBooth with VectorFit: five photos in, a subject file out.

    accelerate launch train_dreambooth_vectorfit.py --instance_dir dog/

The recipe, top to bottom: settings, base model, class images and latents, VectorFit layers, the loop, the subject file.
"""

from vf_dreambooth import cli

if __name__ == "__main__":
    cli.answer_help()  # before PyTorch is loaded

import json
import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from diffusers import DiffusionPipeline
from torch import nn
from tqdm import tqdm

import vectorfit as vf
from vf_dreambooth import checkpoint, estimate, faults, hub, optimization, residency, selection, trackers
from vf_dreambooth.base_models import BaseModel, load
from vf_dreambooth.families import family_of
from vf_dreambooth.interruption import Interruption
from vf_dreambooth.objective import Objective
from vf_dreambooth.run_writer import RunWriter
from vf_dreambooth.samplers import build_data_sampler
from vf_dreambooth.setup import Setup, announce, prepare
from vf_dreambooth.stopwatch import Stopwatch
from vf_dreambooth.together import groups
from vf_dreambooth.together_loop import Together, raise_problems, results
from vf_training.commands import exit_clearly, part_processes
from vf_training.device import forget_peak_memory, free_memory, use_all_cores


class Loop:
    """The training of one subject."""

    def __init__(self, setup: Setup, pipe: DiffusionPipeline, accelerator: Accelerator, stopwatch: Stopwatch) -> None:
        self.setup, self.config, self.accelerator = setup, setup.config, accelerator
        self.data_sampler = build_data_sampler(setup, pipe, accelerator)  # before the models are changed
        residency.put_aside(pipe)
        models = adapted(pipe, self.config.train_text_encoder)
        self.optimization = optimization.build(self.config, models, family_of(pipe).unreached(pipe))
        accelerator.print(f"method       {self.config.method}: {self.optimization.trained.summary}")
        self.models = models
        self.writer = RunWriter(setup, pipe, self.optimization, accelerator, stopwatch)
        vectors, penalty = self.optimization.vectors.values(), self.optimization.penalty
        self.objective = Objective(self.config, pipe, self.data_sampler, setup.photos.captions, vectors, penalty)
        denoiser = family_of(pipe).denoiser(pipe)
        if not self.config.train_text_encoder:
            self.objective.keep_text(denoiser, accelerator)
        self.denoiser, self.optimizer = accelerator.prepare(denoiser, self.optimization.optimizer)

    def update(self, step: int, interruption: Interruption) -> tuple[dict, bool]:
        """One optimizer update; returns its log entry, and whether any process was asked to stop."""
        config, accelerator, training = self.config, self.accelerator, self.optimization
        parts = self.objective.backward(self.denoiser, step, accelerator)
        stop = torch.full_like(parts[:1], interruption.requested)  # one process's Ctrl-C stops all after the same step
        means = accelerator.reduce(torch.cat([parts, stop]), "mean")
        frozen, rates = training.freeze(step), training.rates()
        norm = accelerator.clip_grad_norm_(training.vectors.values(), config.max_grad_norm)
        loss, instance, prior, stopping, norm = torch.cat([means, norm.reshape(1)]).tolist()  # a step's one wait
        self.require_finite("loss", loss, step)
        if accelerator.scaler is None:  # a scaler finds its scale by infinities, and skips those updates
            self.require_finite("gradient", norm, step)
        self.optimizer.step()
        skipped = accelerator.optimizer_step_was_skipped  # by fp16's scaler, as it looks for its scale
        training.after_update(skipped)
        self.optimizer.zero_grad(set_to_none=True)
        entry = {"step": step, "loss": loss, "instance_loss": instance, "prior_loss": prior, **rates}
        return {**entry, "grad_norm": None if skipped else norm, "frozen": list(frozen)}, stopping > 0

    def require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            self.writer.checkpoint(step - 1)
            names = self.setup.photos.names
            raise vf.VectorFitError(faults.not_finite(what, value, step, self.config, self.data_sampler, names))

    def run(self, done: int) -> bool:
        """Trains after the first `done` steps. Returns True at the last step, False if it was asked to stop before."""
        config, accelerator, writer = self.config, self.accelerator, self.writer
        images = self.data_sampler.global_batch_size * (1 if self.data_sampler.prior is None else 2)
        steps = range(done + 1, config.max_train_steps + 1)
        quiet = not accelerator.is_local_main_process
        bar = tqdm(steps, desc="training", unit="step", disable=quiet, initial=done, total=config.max_train_steps)
        with Interruption() as interruption:
            for step in bar:
                entry, stopping = self.update(step, interruption)
                speed = images * (bar.format_dict["rate"] or 0)
                bar.set_postfix(loss=f"{entry['loss']:.3f}", images_per_s=f"{speed:.1f}")
                last = step == config.max_train_steps
                kept = stopping or last or step % config.checkpointing_steps == 0
                entry |= writer.validate() if kept else {}
                accelerator.log({name: entry[name] for name in entry if isinstance(entry[name], float)}, step=step)
                writer.log(entry)
                if kept:
                    writer.sample_grid(step)
                    writer.checkpoint(step)
                if stopping and not last:
                    return False
        return True


def adapted(pipe: DiffusionPipeline, train_text_encoder: bool) -> dict[str, nn.Module]:
    """The models to adapt, with all their parameters frozen."""
    family = family_of(pipe)
    for model in family.adapted_models(pipe).values():
        model.requires_grad_(False)
    return family.models_to_train(pipe, text_encoders=train_text_encoder)


def start(setup: Setup) -> Accelerator:
    """Starts accelerate with the settings, on all cores or the accelerator, and prints what will be trained."""
    accelerator = Accelerator(
        mixed_precision=setup.config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=setup.config.gradient_accumulation_steps),
        log_with=setup.config.report_to,
        project_dir=setup.run.path,
        dynamo_backend="inductor" if setup.config.compile else None,  # None: as accelerate is configured
        # Factors are buffers and equal on every process. Broadcasting them would send gigabytes at every step.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.device.type == "cpu":
        use_all_cores(accelerator.num_processes)
    torch.backends.cuda.matmul.allow_tf32 = True
    announce(setup, accelerator.print)
    return accelerator


def train_subject(setup: Setup, load: Callable[[BaseModel], DiffusionPipeline] = load) -> str:
    """One run, from base model to subject file, of the pipeline that `load` gives. Returns a line with its result."""
    config, run = setup.config, setup.run
    if setup.resume and setup.finished:
        return f"{config.trigger}: already finished, {run.vectors}"
    accelerator, stopwatch = start(setup), Stopwatch()
    free_memory()  # of the subject before
    forget_peak_memory()
    pipe = residency.moved_to(load(setup.base), accelerator.device)
    if config.report_to:
        trackers.start(accelerator, config.report_to, run.path, config.as_dict())
    if accelerator.is_main_process:
        run.write_config(setup.run_config())
    loop = Loop(setup, pipe, accelerator, stopwatch)
    folder = checkpoint.find(run, setup.resume) if setup.resume else None
    done = checkpoint.resume(run, folder, loop.optimization, accelerator, loop.models, stopwatch)
    if setup.resume:
        accelerator.print(f"resumed      {f'after step {done}' if folder else 'no checkpoint yet, from the beginning'}")
    if not done:
        loop.writer.begin()
    complete = loop.run(done)
    if complete:
        loop.writer.finish()
    accelerator.wait_for_everyone()  # the main process has written what the others read next
    for tracker in accelerator.trackers:
        tracker.finish()
    if not complete:
        accelerator.print(f"stopped; resume with: train_dreambooth_vectorfit.py --resume_from_checkpoint {run.path}")
        raise SystemExit(130)
    loss, size = run.read_log()[-1]["loss"], run.vectors.stat().st_size
    return f"{config.trigger}: loss {loss:.3f}, {stopwatch.seconds:.0f} s, {run.vectors} ({size:,} bytes)"


def train_together(setups: Sequence[Setup]) -> list[str]:
    """Several runs in one batch: each has the vectors that it would have alone. Returns a line with each result."""
    done = [f"{s.config.trigger}: already finished, {s.run.vectors}" for s in setups if s.resume and s.finished]
    setups = [setup for setup in setups if not (setup.resume and setup.finished)]
    if not setups:
        return done
    accelerator = start(setups[0])
    for setup in setups[1:]:
        announce(setup, accelerator.print)
    forget_peak_memory()
    pipe, priors = residency.moved_to(load(setups[0].base), accelerator.device), {}
    for setup in setups:
        setup.run.write_config(setup.run_config())
    samplers = [build_data_sampler(setup, pipe, accelerator, priors) for setup in setups]
    residency.put_aside(pipe)
    loop = Together(setups, pipe, adapted(pipe, setups[0].config.train_text_encoder), samplers, accelerator)
    loop.resume()
    if not loop.run():
        accelerator.print("stopped; resume with the same command and --resume_from_checkpoint latest")
        raise SystemExit(130)
    raise_problems(loop)
    return done + results(loop)


def dry_run(setup: Setup) -> None:
    """Prints what would be trained and how long it would take. Writes nothing."""
    accelerator = start(setup)
    pipe = residency.moved_to(load(setup.base), accelerator.device)
    models, unreached = adapted(pipe, setup.config.train_text_encoder), family_of(pipe).unreached(pipe)
    built = optimization.build(setup.config, models, unreached)
    for line in estimate.report(setup, pipe, built, accelerator):
        accelerator.print(line)


def main(arguments: Sequence[str] | None = None) -> None:
    setups, command = prepare(arguments)
    if command.print_config:
        print(*(json.dumps({"settings": setup.config.as_dict()}, indent=1) for setup in setups), sep="\n")
        return
    finished = []
    for group in groups(setups, 1 if command.dry_run else command.config.together or 1):
        with faults.memory_advice(group[0].config, len(group)):
            if command.dry_run:
                dry_run(group[0])
            else:
                finished += [train_subject(group[0])] if len(group) == 1 else train_together(group)
    for line in finished:
        PartialState().print(f"subject      {line}")
    if not command.dry_run:
        selection.pick(setups)
        hub.push_finished((setup.config, setup.run) for setup in setups)
    part_processes()


if __name__ == "__main__":
    exit_clearly(main)
