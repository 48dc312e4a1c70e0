"""The objective of DreamBooth: denoise the subject, and keep the class."""

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit import VectorFitError


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


def combine(losses: Tensor, is_class: Tensor, prior_loss_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its instance part and its class part: mean over instance samples + weight * mean over class samples.

    The flag travels with the sample, so the order in the batch does not matter; an empty side counts 0.
    Shapes: `losses` [n], `is_class` [n] bool.
    """
    weight = is_class.to(losses)
    instance = (losses * (1 - weight)).sum() / (1 - weight).sum().clamp(min=1)
    prior = (losses * weight).sum() / weight.sum().clamp(min=1)
    return instance + prior_loss_weight * prior, instance, prior


def encode_prompts(tokenizer, prompts: list[str]) -> Tensor:
    """Token ids [p, length], padded and cut to the model's length as the base was trained."""
    return tokenizer(
        prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def unique_prompts(prompts: list[str]) -> tuple[list[str], Tensor]:
    """The distinct prompts in order of appearance, and each sample's index among them."""
    distinct = list(dict.fromkeys(prompts))
    return distinct, torch.tensor([distinct.index(prompt) for prompt in prompts])
