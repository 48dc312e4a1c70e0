"""The objective of DreamBooth: denoise the subject, and keep the class."""

from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TrainConfig
from .data import Batch, DataSampler
from .families import family_of


def per_sample_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, float32. Shapes: [n, c, h, w] twice to [n]."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").flatten(1).mean(1)


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
        self._drawn: dict[tuple[int, int], Batch] = {}  # batches of the next update, by step and first sample
        self.vectors = list(vectors)
        family = family_of(pipe)
        self.noise_schedule = family.noise_schedule(pipe)
        prompts = [caption or config.instance_prompt for caption in captions] + [config.class_prompt]
        distinct, index = unique_prompts(prompts if data_sampler.prior is not None else prompts[:-1])
        self.prompt_ids = family.tokenize(pipe, distinct)
        self.photo_prompt, self.class_prompt = index[: len(captions)], index[-1]

    def _prompt_index(self, batch: Batch) -> Tensor:
        """Which of the distinct prompts each sample has [n]."""
        photo = self.photo_prompt[torch.where(batch.is_class, 0, batch.picture)]
        return torch.where(batch.is_class, self.class_prompt, photo)

    def backward(self, denoiser: nn.Module, step: int, accelerator: Accelerator) -> Tensor:
        """Accumulates the gradients of one update; returns loss, instance loss and class loss [3] on this process."""
        config, device = self.config, accelerator.device
        parts, self.prompt_ids = torch.zeros(3, device=device), self.prompt_ids.to(device)
        firsts = [
            (micro * accelerator.num_processes + accelerator.process_index) * config.train_batch_size
            for micro in range(config.gradient_accumulation_steps)
        ]
        for first in firsts:
            batch = self._drawn.pop((step, first), None) or self.data_sampler.batch(step, first)
            index, batch = self._prompt_index(batch).to(device), batch.to(device)
            noisy = self.noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
            target = self.noise_schedule.target(batch.latents, batch.noise, batch.timesteps)
            with accelerator.accumulate(denoiser):
                with accelerator.autocast():
                    predicted = denoiser(noisy, batch.timesteps, self.prompt_ids, index)
                losses = per_sample_loss(predicted, target)
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
        # Before anyone waits for the result: an accelerator goes on computing meanwhile.
        self._drawn = {(step + 1, first): self.data_sampler.batch(step + 1, first) for first in firsts}
        return parts


def unique_prompts(prompts: list[str]) -> tuple[list[str], Tensor]:
    """The distinct prompts in order of appearance, and each sample's index among them."""
    distinct = list(dict.fromkeys(prompts))
    return distinct, torch.tensor([distinct.index(prompt) for prompt in prompts])
