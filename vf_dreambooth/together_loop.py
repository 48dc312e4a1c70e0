"""Trains several subjects in one batch: one base, and for each subject its own vectors, optimizer, freezing and run.

A sample's gradient reaches its own subject's vectors alone, and every subject draws the samples that it would draw
alone. So its vectors are those of a training of its own, up to rounding.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from tqdm import tqdm

import vectorfit as vf
from vectorfit.layers import VectorFitLayer
from vectorfit.record import injection_of
from vectorfit.rows import LayerRows, Rows, seated
from vf_training import methods

from . import checkpoint, faults, optimization
from .data import DataSampler
from .families import Denoiser, family_of
from .interruption import Interruption
from .objective import Inputs, Objective, base_prediction
from .optimization import Optimization
from .presets import TEXT_ENCODERS
from .residency import quick_attention
from .run_writer import RunWriter
from .setup import Setup
from .stopwatch import Stopwatch


@dataclass
class Member:
    """One subject of the batch: what a training of its own has too, and how far it is."""

    setup: Setup
    optimization: Optimization
    objective: Objective
    writer: RunWriter
    stopwatch: Stopwatch
    layers: Mapping[str, VectorFitLayer]
    first_prompt: int = 0  # the number of its first prompt among all, where prompts are kept encoded
    done: int = 0  # updates
    problem: str = ""  # why its training ended early
    vectors: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.vectors = self.optimization.vectors

    @property
    def training(self) -> bool:
        return not self.problem and self.done < self.setup.config.max_train_steps

    def take_place(self) -> None:
        """Makes the models' vectors this subject's, for all that looks for them there."""
        place(self.layers, self.vectors)


def place(layers: Mapping[str, VectorFitLayer], vectors: Mapping[str, nn.Parameter]) -> None:
    """Makes these the layers' own vectors."""
    for path, layer in layers.items():
        layer.d_sigma, layer.d_bias = vectors.get(f"{path}.sigma"), vectors.get(f"{path}.bias")


@dataclass(frozen=True)
class Part:
    """The samples of one size of one member, and the noisy latents that the denoiser gets."""

    member: Member
    inputs: Inputs
    noisy: Tensor


class Together:
    """The training of several subjects. `samplers` are their data, in the order of the setups."""

    def __init__(
        self,
        setups: Sequence[Setup],
        pipe: DiffusionPipeline,
        models: Mapping[str, nn.Module],
        samplers: Sequence[DataSampler],
        accelerator: Accelerator,
    ) -> None:
        self.accelerator, self.models, self.config = accelerator, models, setups[0].config
        self._entries: dict[int, dict] = {}  # of the newest update, by member
        family = family_of(pipe)
        first = optimization.build(self.config, models, family.unreached(pipe))
        self.layers = injection_of(models).layers
        self.text_layers = [layer for path, layer in self.layers.items() if fnmatch(path.split(".")[0], TEXT_ENCODERS)]
        self.members = [
            self._member(first.trained, setup, pipe, sampler) for setup, sampler in zip(setups, samplers, strict=True)
        ]
        self.denoiser: Denoiser = family.denoiser(pipe)
        if not self.config.train_text_encoder:
            self._keep_text()
        accelerator.print(f"method       {self.config.method}: {first.trained.summary}, of each subject")

    def _member(self, trained: methods.Trained, setup: Setup, pipe: DiffusionPipeline, sampler: DataSampler) -> Member:
        own = {name: nn.Parameter(torch.zeros_like(vector)) for name, vector in trained.parameters.items()}
        place(self.layers, own)
        built, stopwatch = optimization.around(trained, setup.config, self.models), Stopwatch()
        captions, vectors = setup.photos.captions, built.vectors.values()
        objective = Objective(setup.config, pipe, sampler, captions, vectors, built.penalty)
        writer = RunWriter(setup, pipe, built, self.accelerator, stopwatch)
        return Member(setup, built, objective, writer, stopwatch, self.layers)

    def _keep_text(self) -> None:
        """Encodes the prompts of all members once."""
        ids = [member.objective.prompt_ids for member in self.members]
        with self.accelerator.autocast():
            self.denoiser.keep(torch.cat(ids).to(self.accelerator.device))
        first = 0
        for member, own in zip(self.members, ids, strict=True):
            member.first_prompt, member.objective.text_is_kept = first, True
            first += len(own)

    def resume(self) -> None:
        """Restores each member's checkpoint where it has one, otherwise writes what is known before the first step."""
        for member in self.members:
            setup, folder = member.setup, None
            if setup.resume:
                folder = checkpoint.find(setup.run, setup.resume)
            member.take_place()
            member.done = checkpoint.resume(
                setup.run, folder, member.optimization, self.accelerator, self.models, member.stopwatch
            )
            if setup.resume:
                where = f"after step {member.done}" if folder else "no checkpoint yet, from the beginning"
                self.accelerator.print(f"resumed      {setup.run.path}: {where}")
            if not member.done:
                member.writer.begin()

    def run(self) -> bool:
        """Trains all members to their last steps. Returns False if it was asked to stop before."""
        steps = max(member.setup.config.max_train_steps for member in self.members)
        begun = min(member.done for member in self.members)
        with Interruption() as interruption, tqdm(total=steps, initial=begun, desc="training", unit="step") as bar:
            while active := [member for member in self.members if member.training]:
                self.update(active)
                bar.update()
                for member in active:
                    self._after_update(member, interruption.requested)
                if interruption.requested:
                    return not any(member.training for member in self.members)
        return True

    def update(self, active: Sequence[Member]) -> None:
        """One optimizer update of each of these members."""
        parts = self._backward(active)
        frozen, norms = [], []
        for member in active:
            member.take_place()
            frozen.append(member.optimization.freeze(member.done + 1))
            norms.append(self.accelerator.clip_grad_norm_(member.vectors.values(), member.setup.config.max_grad_norm))
        numbers = torch.cat([parts, torch.stack(norms)[:, None]], 1).tolist()  # a step's one wait
        for member, (loss, instance, prior, norm), names in zip(active, numbers, frozen, strict=True):
            if self._is_finite(member, loss, norm):
                self._step(member, {"loss": loss, "instance_loss": instance, "prior_loss": prior}, norm, names)

    def _step(self, member: Member, losses: dict[str, float], norm: float, frozen: Sequence[str]) -> None:
        training = member.optimization
        entry = {"step": member.done + 1, **losses, **training.rates(), "grad_norm": norm, "frozen": list(frozen)}
        training.optimizer.step()
        training.after_update()
        training.optimizer.zero_grad(set_to_none=True)
        member.done += 1
        self._entries[id(member)] = entry

    def _is_finite(self, member: Member, loss: float, norm: float) -> bool:
        """Whether a member can go on; otherwise its training ends here, and the others' go on."""
        for what, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value):
                member.take_place()
                member.writer.checkpoint(member.done)
                names, sampler = member.setup.photos.names, member.objective.data_sampler
                told = faults.not_finite(what, value, member.done + 1, member.setup.config, sampler, names)
                member.problem = f"{member.setup.run.path}: {told}"
                for vector in member.vectors.values():
                    vector.grad = None
                return False
        return True

    def _after_update(self, member: Member, stopping: bool) -> None:
        """Logs the update, and writes what belongs to its step."""
        entry = self._entries.pop(id(member), None)
        if entry is None:
            return
        config, writer, step = member.setup.config, member.writer, member.done
        kept = stopping or step == config.max_train_steps or step % config.checkpointing_steps == 0
        member.take_place()
        entry |= writer.validate() if kept else {}
        writer.log(entry)
        if kept:
            writer.sample_grid(step)
            writer.checkpoint(step)
        if step == config.max_train_steps:
            writer.finish()

    def _backward(self, active: Sequence[Member]) -> Tensor:
        """Accumulates the members' gradients; returns loss, instance loss and prior's loss of each [members, 3]."""
        config, device = self.config, self.accelerator.device
        sums = torch.zeros(len(active), 3, device=device)
        for first in range(0, config.effective_batch_size, config.train_batch_size):
            drawn = [
                Part(member, inputs, member.objective.noisy(inputs))
                for member in active
                for inputs in member.objective.inputs(member.done + 1, first, device)
            ]
            sizes = dict.fromkeys(part.noisy.shape[1:] for part in drawn)
            losses: dict[int, list[tuple[Tensor, Tensor]]] = {id(member): [] for member in active}
            with quick_attention(device):
                for size in sizes:  # of several sizes the last ones' rows stay seated, see `together.problems`
                    alike = [part for part in drawn if part.noisy.shape[1:] == size]
                    with self._seated(alike):
                        for part, own in zip(alike, self._losses(alike), strict=True):
                            losses[id(part.member)].append((own, part.inputs.batch.is_class))
                totals = [self._total(member, losses[id(member)]) for member in active]
                with self._seated(alike):  # where checkpointing computes again
                    loss = torch.stack([total[0] for total in totals]).sum()
                    (loss / config.gradient_accumulation_steps).backward()
            sums += torch.stack([torch.stack(total) for total in totals]).detach() / config.gradient_accumulation_steps
        return sums

    def _total(self, member: Member, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        losses, is_class = (torch.cat(each) for each in zip(*parts, strict=True))
        member.take_place()  # a penalty looks for the vectors there
        return member.objective.total(losses, is_class)

    @contextmanager
    def _seated(self, parts: Sequence[Part]) -> Iterator[None]:
        """Within the context every prompt and every sample of these parts has its member's vectors."""
        members = list({id(part.member): part.member for part in parts}.values())
        number = {id(member): place for place, member in enumerate(members)}
        samples = [number[id(part.member)] for part in parts for _ in range(len(part.noisy))]
        prompts = [
            number[id(part.member)]
            for part in parts
            if part.inputs.prompt_ids is not None
            for _ in range(len(part.inputs.prompt_ids))
        ]
        of_samples, of_prompts = Rows(samples, len(members)), Rows(prompts, len(members))
        text = {id(layer) for layer in self.text_layers}
        layers = {}
        for path, layer in self.layers.items():
            sigma, bias = (
                [member.vectors[name] for member in members]
                if (name := f"{path}.{kind}") in members[0].vectors
                else None
                for kind in ("sigma", "bias")
            )
            layers[layer] = LayerRows(of_prompts if id(layer) in text else of_samples, sigma, bias)
        with seated(layers):
            yield

    def _losses(self, parts: Sequence[Part]) -> list[Tensor]:
        """The loss of each sample [n] of each part; all have one size."""
        noisy = torch.cat([part.noisy for part in parts])
        timesteps = torch.cat([part.inputs.batch.timesteps for part in parts])
        counts = [len(part.noisy) for part in parts]
        ids, index = self._prompts(parts)
        with self.accelerator.autocast():
            predicted = self.denoiser(noisy, timesteps, ids, index)
        bases: Sequence[Tensor | None] = [None] * len(parts)
        if self.config.prior == "base_prediction":
            starts = [sum(counts[:place]) for place in range(len(parts))]
            rows = [part.inputs.class_rows + start for part, start in zip(parts, starts, strict=True)]
            of_class = torch.cat(rows)
            with self.accelerator.autocast():
                base = base_prediction(self.denoiser, noisy[of_class], timesteps[of_class], ids, index[of_class])
            bases = base.split([len(own) for own in rows])
        pieces = zip(parts, predicted.split(counts), bases, strict=True)
        return [part.member.objective.losses(part.inputs, own, base) for part, own, base in pieces]

    def _prompts(self, parts: Sequence[Part]) -> tuple[Tensor | None, Tensor]:
        """The prompts of all parts to encode, or None where they are kept, and which each sample has."""
        index, first = [], 0
        for part in parts:
            ids = part.inputs.prompt_ids
            index.append(part.inputs.prompt_index + (part.member.first_prompt if ids is None else first))
            first += 0 if ids is None else len(ids)
        if not first:
            return None, torch.cat(index)
        return torch.cat([part.inputs.prompt_ids for part in parts]), torch.cat(index)

    def problems(self) -> list[str]:
        """Why members ended early."""
        return [member.problem for member in self.members if member.problem]


def results(trained: Together) -> list[str]:
    """A line for each finished member."""
    lines = []
    for member in trained.members:
        if not member.problem:
            run, size = member.setup.run, member.setup.run.vectors.stat().st_size
            loss = run.read_log()[-1]["loss"]
            seconds = member.stopwatch.seconds
            lines.append(
                f"{member.setup.config.trigger}: loss {loss:.3f}, {seconds:.0f} s, {run.vectors} ({size:,} bytes)"
            )
    return lines


def raise_problems(trained: Together) -> None:
    """Raises VectorFitError with what ended members early; the others are finished."""
    if problems := trained.problems():
        raise vf.VectorFitError("\n".join(problems))
