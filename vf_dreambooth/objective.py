"""The objective of DreamBooth: denoise the subject, and keep the class."""

from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from .captions import Captions
from .config import TrainConfig
from .data import DataSampler
from .families import family_of


def per_sample_loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error of each sample, float32. Shapes: [n, c, h, w] twice, [n, 1, h, w] to [n]."""
    return (F.mse_loss(prediction.float(), target.float(), reduction="none") * weights).flatten(1).mean(1)


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
        self.vectors = list(vectors)
        family = family_of(pipe)
        self.noise_schedule = family.noise_schedule(pipe)
        self.captions = Captions(config, captions, with_class=data_sampler.prior is not None)
        self.prompt_ids = family.tokenize(pipe, self.captions.prompts)

    def backward(self, denoiser: nn.Module, step: int, accelerator: Accelerator) -> Tensor:
        """Accumulates the gradients of one update; returns loss, instance loss and class loss [3] on this process."""
        config, device = self.config, accelerator.device
        parts = torch.zeros(3, device=device)
        for micro in range(config.gradient_accumulation_steps):
            first = (micro * accelerator.num_processes + accelerator.process_index) * config.train_batch_size
            batch = self.data_sampler.batch(step, first)
            index = self.captions.index(batch.picture, batch.is_class, step, first).to(device)
            batch = batch.to(device)
            noisy = self.noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
            target = self.noise_schedule.target(batch.latents, batch.noise, batch.timesteps)
            with accelerator.accumulate(denoiser):
                with accelerator.autocast():
                    predicted = denoiser(noisy, batch.timesteps, self.prompt_ids.to(device), index)
                losses = per_sample_loss(predicted, target, batch.weights)
                if config.snr_gamma is not None:
                    losses = losses * self.noise_schedule.min_snr_weights(batch.timesteps, config.snr_gamma)
                loss, instance, prior = combine(losses, batch.is_class, config.prior_loss_weight)
                if config.prior == "drift":
                    prior = drift(self.vectors)
                    loss = loss + config.drift_weight * prior
                if self.penalty is not None:
                    loss = loss + self.penalty()
                accelerator.backward(loss)
            parts += torch.stack([loss, instance, prior]).detach() / config.gradient_accumulation_steps
        return parts
