"""The noise schedule of models that predict the flow from a picture to noise: rectified flow."""

import math

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from .family import NoiseSchedule

PATCH = 2  # the side of the square of latent pixels that is one token, in all models that shift by their number


class FlowSchedule(NoiseSchedule):
    """Straight paths: x_t = (1 - s) x_0 + s noise with s = t / 1000; the model predicts the velocity noise - x_0.

    s is drawn logit-normally, then shifted towards the noise as the base's scheduler does it when it generates: the
    more pixels, the more noise hides them. Source: Esser et al. 2024 (arXiv 2403.03206), Sections 3.1 and 5.3.2.
    """

    prediction_type = "flow"

    def __init__(self, scheduler: SchedulerMixin) -> None:
        self._config = scheduler.config
        self.num_timesteps = scheduler.config.num_train_timesteps

    def _share(self, timesteps: Tensor) -> Tensor:
        """s, the share of the noise [n, 1, 1, 1]."""
        return (timesteps.float() / self.num_timesteps)[:, None, None, None]

    def shift(self, shape: tuple[int, ...]) -> float:
        """By how much the noise outweighs more than drawn, for latents of this shape (c, h, w).

        Flux's scheduler interpolates the logarithm by the number of tokens. Others have one shift for all sizes.
        """
        config = self._config
        if not config.use_dynamic_shifting:
            return float(config.shift)
        tokens = shape[1] * shape[2] / PATCH**2
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return math.exp(config.base_shift + slope * (tokens - config.base_image_seq_len))

    def draw_timestep(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        share, shift = torch.randn(1, generator=generator).sigmoid(), self.shift(shape)
        return self.num_timesteps * shift * share / (1 + (shift - 1) * share)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        share = self._share(timesteps)
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) s^2 with SNR = ((1 - s) / s)^2: an error of the velocity is s times as large in x_0."""
        share = self._share(timesteps).flatten()
        return torch.minimum((1 - share).square(), gamma * share.square())
