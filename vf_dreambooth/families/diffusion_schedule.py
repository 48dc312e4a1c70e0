"""The noise schedule of models that predict the noise (epsilon) or the velocity (v)."""

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Tensor

from vectorfit import VectorFitError

from .family import NoiseSchedule

PREDICTION_TYPES = ("epsilon", "v_prediction")


class DiffusionSchedule(NoiseSchedule):
    """Variance-preserving noise: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise.

    Source: DDPM (arXiv 2006.11239), Eq. 4; velocities are those of Salimans and Ho 2022 (arXiv 2202.00512).
    """

    def __init__(self, scheduler: SchedulerMixin) -> None:
        self._scheduler = DDPMScheduler.from_config(scheduler.config)
        self.num_timesteps = scheduler.config.num_train_timesteps
        self.prediction_type = scheduler.config.prediction_type

    def draw_timestep(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(self.num_timesteps, (1,), generator=generator)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self._scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise or the velocity, by the scheduler's `prediction_type`.

        Raises:
            VectorFitError: another prediction type.
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self._scheduler.get_velocity(latents, noise, timesteps)
        raise VectorFitError(
            f"the base's scheduler predicts {self.prediction_type!r}; expected {' or '.join(PREDICTION_TYPES)}"
        )

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / SNR for noise, min(SNR, gamma) / (SNR + 1) for velocities, of each sample [n]."""
        signal = self._scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = signal / (1 - signal)
        divisor = snr + 1 if self.prediction_type == "v_prediction" else snr
        return snr.clamp(max=gamma) / divisor
