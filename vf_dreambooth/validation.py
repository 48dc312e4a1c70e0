"""The loss on photos that are not trained on, at fixed noise: it rises where a training learns its photos by heart."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from .captions import Captions
from .config import TrainConfig
from .data import encode_photos
from .families import family_of
from .objective import per_sample_loss
from .photos import Photos
from .randomness import generator

TIMES = 8  # timesteps at which each photo is measured, spread evenly


class Validation:
    """Measures one loss, always on the same latents, noise and timesteps, so that its values can be compared."""

    def __init__(self, config: TrainConfig, pipe: DiffusionPipeline, photos: Photos) -> None:
        plain = replace(config, center_crop=True, aspect_ratio_buckets=False, random_flip=False)
        plain = replace(plain, caption_dropout=0.0, shuffle_captions=False)
        family, self._batch_size = family_of(pipe), config.train_batch_size
        self._schedule, self._denoiser = family.noise_schedule(pipe), family.denoiser(pipe)
        latents = encode_photos(pipe, photos, plain)
        captions = Captions(plain, photos.captions, with_class=False)
        self._prompt_ids = family.tokenize(pipe, captions.prompts)
        photo = torch.arange(len(latents)).repeat_interleave(TIMES)
        self._prompt = captions.index(photo, torch.zeros_like(photo, dtype=torch.bool), 0, 0)
        time = (torch.arange(TIMES) + 0.5) * self._schedule.num_timesteps / TIMES
        self._timesteps = time.long().repeat(len(latents))
        self._latents = latents.mean[photo]
        self._weights = torch.ones_like(self._latents[:, :1]) if latents.weights is None else latents.weights[photo]
        shape = latents.mean.shape[1:]
        self._noise = torch.stack(
            [torch.randn(shape, generator=generator(0, "validation noise", index)) for index in range(len(photo))]
        )

    @torch.no_grad()
    def loss(self, accelerator: Accelerator) -> float:
        """The mean squared error over all photos and timesteps, with the models as they are now, in eval mode."""
        device, losses = accelerator.device, []
        modes = [(module, module.training) for module in self._denoiser.modules()]
        try:
            self._denoiser.eval()
            for rows in torch.arange(len(self._latents)).split(self._batch_size):
                latents, noise = self._latents[rows].to(device), self._noise[rows].to(device)
                timesteps, prompt = self._timesteps[rows].to(device), self._prompt[rows].to(device)
                noisy = self._schedule.add_noise(latents, noise, timesteps)
                with accelerator.autocast():
                    predicted = self._denoiser(noisy, timesteps, self._prompt_ids.to(device), prompt)
                target = self._schedule.target(latents, noise, timesteps)
                losses.append(per_sample_loss(predicted, target, self._weights[rows].to(device)))
        finally:
            for module, training in modes:
                module.training = training
        return torch.cat(losses).mean().item()
