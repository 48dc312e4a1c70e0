"""The objective of DreamBooth: denoise the subject, and keep the class."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

import vectorfit as vf
from vf_training.device import free_memory, is_out_of_memory

from .captions import Captions
from .config import TrainConfig
from .data import Batch, DataSampler, sent
from .families import Denoiser, family_of
from .residency import quick_attention


def per_sample_loss(prediction: Tensor, target: Tensor, weights: Tensor, huber_c: float | None = None) -> Tensor:
    """Weighted mean error of each sample, float32. Shapes: [n, c, h, w] twice, [n, 1, h, w] to [n].

    The error is squared, or with `huber_c` the pseudo-Huber loss 2 c (sqrt(d^2 + c^2) - c): d^2 for small d, 2 c |d|
    for large. Source: Khrapov et al. 2024 (arXiv 2403.16728).
    """
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none")
    if huber_c is not None:
        errors = 2 * huber_c * ((errors + huber_c**2).sqrt() - huber_c)
    return (errors * weights).flatten(1).mean(1)


def drift(vectors: Iterable[Tensor]) -> Tensor:
    """The squared norm of the change of all weights and biases.

    ||dW||_F^2 = ||d_sigma||^2 exactly, because U and Vh are orthonormal. So no weight needs to be composed.
    """
    return torch.stack([vector.square().sum() for vector in vectors]).sum()


def combine(losses: Tensor, is_class: Tensor, prior_loss_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its instance part and its class part: mean over instance samples + weight * mean over class samples.

    Each sample has its own flag, so the order in the batch does not matter. An empty side counts 0.
    Shapes: `losses` [n], `is_class` [n] bool.
    """
    # torch.where, not a product with 0: an infinite loss times 0 would be NaN.
    zero = torch.zeros_like(losses)
    instance = torch.where(is_class, zero, losses).sum() / (~is_class).sum().clamp(min=1)
    prior = torch.where(is_class, losses, zero).sum() / is_class.sum().clamp(min=1)
    return instance + prior_loss_weight * prior, instance, prior


@torch.no_grad()
def base_prediction(
    denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, prompt_ids: Tensor | None, prompt_index: Tensor
) -> Tensor:
    """What the base, without the trained vectors, predicts. Arguments and shapes are those of `Denoiser.forward`.

    It is the target of class samples whose images are the photos: the class prompt must go on meaning what it meant.
    Source: OneTrainer's prior prediction.
    """
    with vf.disabled(denoiser):
        return denoiser(noisy, timesteps, prompt_ids, prompt_index)


@dataclass(frozen=True)
class Inputs:
    """Samples of one size on the device, and their prompts: all [p, length] (None: kept encoded), and whose [n]."""

    batch: Batch
    class_rows: Tensor  # [c], the samples that are of the class
    prompt_ids: Tensor | None
    prompt_index: Tensor


class Objective:
    """What a training minimises on this process, one optimizer update at a time."""

    def __init__(
        self,
        config: TrainConfig,
        pipe: DiffusionPipeline,
        data_sampler: DataSampler,
        captions: Sequence[str | None],
        vectors: Iterable[nn.Parameter],
        penalty: Callable[[], Tensor] | None = None,
    ) -> None:
        self.config, self.data_sampler, self.penalty = config, data_sampler, penalty
        self._drawn: dict[tuple[int, int], list[Inputs]] = {}  # of the next update, by step and first sample
        self.vectors = list(vectors)
        family = family_of(pipe)
        self.noise_schedule = family.noise_schedule(pipe)
        self.captions = Captions(config, captions, with_class=data_sampler.prior is not None)
        self.prompt_ids = family.tokenize(pipe, self.captions.prompts)
        self.text_is_kept = False  # encoded once, by `keep_text`

    def keep_text(self, denoiser: Denoiser, accelerator: Accelerator) -> None:
        """Encodes all prompts once. Only where the text encoder is not trained."""
        with accelerator.autocast():
            denoiser.keep(self.prompt_ids.to(accelerator.device))
        self.text_is_kept = True

    def inputs(self, step: int, first: int, device: torch.device) -> list[Inputs]:
        """The batch of `step` whose first sample is `first`, by size, sent to the device, which is not waited for."""
        batch = self.data_sampler.batch(step, first)
        prompt_index = self.captions.index(batch.picture, batch.is_class, step, first)
        return [self._sent(part, prompt_index[rows], device) for rows, part in batch.by_size()]

    def _sent(self, batch: Batch, prompt_index: Tensor, device: torch.device) -> Inputs:
        prompt_ids = None
        if not self.text_is_kept:
            used, prompt_index = prompt_index.unique(return_inverse=True)  # the others need no encoding
            prompt_ids = sent(self.prompt_ids[used], device)
        class_rows = batch.is_class.nonzero()[:, 0]
        return Inputs(batch.to(device), sent(class_rows, device), prompt_ids, sent(prompt_index, device))

    def backward(self, denoiser: nn.Module, step: int, accelerator: Accelerator) -> Tensor:
        """Accumulates the gradients of one update; returns loss, instance loss and class loss [3] on this process.

        Where the memory does not suffice, the update is made again in smaller parts, and so are all others. Otherwise
        it only queues work on an accelerator: nothing in it waits for a result.
        """
        while True:
            try:
                return self._backward(denoiser, step, accelerator)
            except RuntimeError as error:
                if not (is_out_of_memory(error) and self._split(accelerator)):
                    raise
            free_memory()  # only here is the error gone, which held on to tensors
            at_once = self.config.train_batch_size
            message = (
                f"out of memory at step {step}: from here {at_once} of a batch at once, which changes rounding alone"
            )
            accelerator.print(message)

    def _split(self, accelerator: Accelerator) -> bool:
        """Makes less of a batch be computed at once from now on, which changes results by rounding only.

        False where that cannot be: it is a sample at a time already, or other processes would not know of it.
        """
        batch, now = self.config.effective_batch_size, self.config.train_batch_size
        if now == 1 or accelerator.num_processes > 1:
            return False
        at_once = next(count for count in range(now - 1, 0, -1) if batch % count == 0)
        self.config = replace(self.config, train_batch_size=at_once, gradient_accumulation_steps=batch // at_once)
        self.data_sampler = replace(self.data_sampler, batch_size=at_once)
        accelerator.gradient_accumulation_steps, accelerator.step = batch // at_once, 0
        self._drawn.clear()
        for vector in self.vectors:
            vector.grad = None
        return True

    def _backward(self, denoiser: nn.Module, step: int, accelerator: Accelerator) -> Tensor:
        config, device = self.config, accelerator.device
        parts = torch.zeros(3, device=device)
        firsts = [
            (micro * accelerator.num_processes + accelerator.process_index) * config.train_batch_size
            for micro in range(config.gradient_accumulation_steps)
        ]
        for first in firsts:
            inputs = self._drawn.pop((step, first), None) or self.inputs(step, first, device)
            with accelerator.accumulate(denoiser), quick_attention(device):
                losses = torch.cat([self._losses(denoiser, part, accelerator) for part in inputs])
                is_class = torch.cat([part.batch.is_class for part in inputs])
                loss, instance, prior = self.total(losses, is_class)
                accelerator.backward(loss)
            parts += torch.stack([loss, instance, prior]).detach() / config.gradient_accumulation_steps
        # Before anyone waits for the result: an accelerator goes on computing meanwhile.
        self._drawn = {(step + 1, first): self.inputs(step + 1, first, device) for first in firsts}
        return parts

    def _losses(self, denoiser: nn.Module, inputs: Inputs, accelerator: Accelerator) -> Tensor:
        """The loss of each sample [n]."""
        noisy, batch = self.noisy(inputs), inputs.batch
        with accelerator.autocast():
            predicted = denoiser(noisy, batch.timesteps, inputs.prompt_ids, inputs.prompt_index)
        base = None
        if self.config.prior == "base_prediction" and len(rows := inputs.class_rows):
            sample = noisy[rows], batch.timesteps[rows], inputs.prompt_ids, inputs.prompt_index[rows]
            with accelerator.autocast():
                base = base_prediction(accelerator.unwrap_model(denoiser), *sample)
        return self.losses(inputs, predicted, base)

    def noisy(self, inputs: Inputs) -> Tensor:
        """The noisy latents [n, c, h, w] that the denoiser gets."""
        batch = inputs.batch
        return self.noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)

    def losses(self, inputs: Inputs, predicted: Tensor, base: Tensor | None = None) -> Tensor:
        """The loss of each sample [n]. `base` is what the base predicts for the samples of the class, their target."""
        batch, schedule = inputs.batch, self.noise_schedule
        target = schedule.target(batch.latents, batch.noise, batch.timesteps)
        if base is not None:
            target = target.float().index_put((inputs.class_rows,), base.float())
        losses = per_sample_loss(predicted, target, batch.weights, self.config.huber_c)
        if self.config.snr_gamma is not None:
            losses = losses * schedule.min_snr_weights(batch.timesteps, self.config.snr_gamma)
        return losses

    def total(self, losses: Tensor, is_class: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss to minimise, its instance part and its prior's part. Shapes: `losses` [n], `is_class` [n] bool."""
        loss, instance, prior = combine(losses, is_class, self.config.prior_loss_weight)
        if self.config.prior == "drift":
            prior = drift(self.vectors)
            loss = loss + self.config.drift_weight * prior
        if self.penalty is not None:
            loss = loss + self.penalty()
        return loss, instance, prior
