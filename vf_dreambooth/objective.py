"""The objective of DreamBooth: denoise the subject, and keep the class."""

from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, SchedulerMixin, StableDiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit import VectorFitError

from .config import TrainConfig
from .data import Batch, Sampler


class Denoiser(nn.Module):
    """Text encoder and UNet as one module: one thing to accumulate over, to wrap and to synchronise."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, prompt_ids: Tensor, prompt_index: Tensor) -> Tensor:
        """Prediction [n, c, h, w]; each of `prompt_ids` [p, length] is encoded once, `prompt_index` [n] picks."""
        states = self.text_encoder(prompt_ids).last_hidden_state
        return self.unet(noisy, timesteps, states[prompt_index]).sample


def target(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the UNet should predict, by the scheduler's `prediction_type`.

    Raises:
        VectorFitError: a prediction type other than epsilon and v_prediction.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise VectorFitError(f"the base's scheduler predicts {kind!r}; expected epsilon or v_prediction")


def per_sample_loss(prediction: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each sample, float32. Shapes: [n, c, h, w] twice to [n]."""
    return F.mse_loss(prediction.float(), wanted.float(), reduction="none").flatten(1).mean(1)


def min_snr_weights(scheduler: SchedulerMixin, timesteps: Tensor, gamma: float) -> Tensor:
    """The weight of each sample, instance and class alike: min(SNR, gamma) over SNR, or over SNR + 1 for velocities.

    Shapes: timesteps [n] to weights [n].

    Source: Hang et al. 2023 (arXiv 2303.09556).
    """
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = signal / (1 - signal)
    divisor = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


def drift(vectors: Iterable[Tensor]) -> Tensor:
    """The squared norm of the change of all weights and biases.

    ||dW||_F^2 = ||d_sigma||^2 exactly, since U and Vh are orthonormal: no weight is composed for it.
    """
    return torch.stack([vector.square().sum() for vector in vectors]).sum()


def combine(losses: Tensor, is_class: Tensor, prior_loss_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its instance part and its class part: mean over instance samples + weight * mean over class samples.

    The flag travels with the sample, so the order in the batch does not matter; an empty side counts 0.
    Shapes: `losses` [n], `is_class` [n] bool.
    """
    # Selected, not multiplied by 0: an infinite loss would make the other side NaN.
    zero = torch.zeros_like(losses)
    instance = torch.where(is_class, zero, losses).sum() / (~is_class).sum().clamp(min=1)
    prior = torch.where(is_class, losses, zero).sum() / is_class.sum().clamp(min=1)
    return instance + prior_loss_weight * prior, instance, prior


class Objective:
    """What a training minimises on this process, one optimizer update at a time."""

    def __init__(
        self,
        config: TrainConfig,
        pipe: StableDiffusionPipeline,
        sampler: Sampler,
        captions: Sequence[str | None],
        vectors: Iterable[nn.Parameter],
        penalty: Callable[[], Tensor] | None = None,
    ) -> None:
        self.config, self.sampler, self.penalty = config, sampler, penalty
        self.vectors = list(vectors)
        # The trainer adds noise as the base was trained, whatever sampler the pipeline came with.
        self.noise_schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        prompts = [caption or config.instance_prompt for caption in captions] + [config.class_prompt]
        distinct, index = unique_prompts(prompts if sampler.prior is not None else prompts[:-1])
        self.prompt_ids = encode_prompts(pipe.tokenizer, distinct)
        self.photo_prompt, self.class_prompt = index[: len(captions)], index[-1]

    def _prompt_index(self, batch: Batch) -> Tensor:
        """Which of the distinct prompts each sample has [n]."""
        photo = self.photo_prompt[torch.where(batch.is_class, 0, batch.picture)]
        return torch.where(batch.is_class, self.class_prompt, photo)

    def backward(self, denoiser: nn.Module, step: int, accelerator: Accelerator) -> Tensor:
        """Accumulates the gradients of one update; returns loss, instance loss and class loss [3] on this process."""
        config, device = self.config, accelerator.device
        parts = torch.zeros(3, device=device)
        for micro in range(config.gradient_accumulation_steps):
            first = (micro * accelerator.num_processes + accelerator.process_index) * config.train_batch_size
            drawn = self.sampler.batch(step, first)
            index, batch = self._prompt_index(drawn).to(device), drawn.to(device)
            noisy = self.noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
            wanted = target(self.noise_schedule, batch.latents, batch.noise, batch.timesteps)
            with accelerator.accumulate(denoiser):
                with accelerator.autocast():
                    predicted = denoiser(noisy, batch.timesteps, self.prompt_ids.to(device), index)
                losses = per_sample_loss(predicted, wanted)
                if config.snr_gamma is not None:
                    losses = losses * min_snr_weights(self.noise_schedule, batch.timesteps, config.snr_gamma)
                loss, instance, prior = combine(losses, batch.is_class, config.prior_loss_weight)
                if config.prior == "drift":
                    prior = drift(self.vectors)
                    loss = loss + config.drift_weight * prior
                if self.penalty is not None:
                    loss = loss + self.penalty()
                accelerator.backward(loss)
            parts += torch.stack([loss, instance, prior]).detach() / config.gradient_accumulation_steps
        return parts


def encode_prompts(tokenizer, prompts: list[str]) -> Tensor:
    """Token ids [p, length], padded and cut to the model's length as the base was trained."""
    return tokenizer(
        prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def unique_prompts(prompts: list[str]) -> tuple[list[str], Tensor]:
    """The distinct prompts in order of appearance, and each sample's index among them."""
    distinct = list(dict.fromkeys(prompts))
    return distinct, torch.tensor([distinct.index(prompt) for prompt in prompts])
