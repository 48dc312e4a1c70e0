"""What the families of flow-matching transformers share: latents, noise, and a text encoder that is never trained."""

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from vectorfit import VectorFitError

from .family import Family
from .flow_schedule import PATCH, FlowSchedule


class FlowTransformer(Family):
    """A family whose latents a transformer denoises. Text encoders are adapted by no default, T5 and Qwen never."""

    takes_other_schedulers = False
    half = torch.bfloat16  # in float16 T5 overflows
    diff_naming = "diffusers"  # ComfyUI reads these models' layers under diffusers' names

    def why_unlike(self, pipe: DiffusionPipeline) -> str:
        scheduler = pipe.scheduler.config
        if "shift" not in scheduler or "use_dynamic_shifting" not in scheduler:
            return f"its scheduler is a {type(pipe.scheduler).__name__}, expected a FlowMatchEulerDiscreteScheduler"
        channels, latents = self.channels(pipe), pipe.vae.config.latent_channels
        if channels != latents:
            return (
                f"its transformer takes {channels} channels where the latents have {latents} (a model for inpainting?)"
            )
        return ""

    def channels(self, pipe: DiffusionPipeline) -> int:
        """The channels of the latents that the transformer takes."""
        count: int = pipe.transformer.config.in_channels
        return count

    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        return {"transformer": pipe.transformer}

    def image_models(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        parts = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
        return [model for part in parts if (model := getattr(pipe, part, None)) is not None]

    def encode_images(self, pipe: DiffusionPipeline, pixels: Tensor) -> tuple[Tensor, Tensor]:
        unit = PATCH * pipe.vae_scale_factor
        if pixels.shape[-1] % unit:
            raise VectorFitError(
                f"--resolution: got {pixels.shape[-1]}, expected a multiple of {unit} for a {self.name}"
            )
        posterior = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
        scale, shift = pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor or 0.0
        return (posterior.mean.float().cpu() - shift) * scale, posterior.std.float().cpu() * scale

    def latent_shape(self, pipe: DiffusionPipeline, resolution: int) -> tuple[int, int, int]:
        side = resolution // pipe.vae_scale_factor
        return pipe.vae.config.latent_channels, side, side

    def noise_schedule(self, pipe: DiffusionPipeline) -> FlowSchedule:
        return FlowSchedule(pipe.scheduler)
