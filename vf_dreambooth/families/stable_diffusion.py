"""Stable Diffusion 1 and 2, and the starter, which has their layout.

Loading, latents, and layer names in diffusers' and kohya's files.
"""

from collections.abc import Sequence
from functools import partial

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from vectorfit.export import Naming
from vf_dreambooth.presets import PRESETS, SD14

from .diffusion_schedule import PREDICTION_TYPES, DiffusionSchedule
from .family import Denoiser, Family
from .layer_names import kohya_name, kohya_naming, published_name
from .text import token_ids

KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}


class StableDiffusionDenoiser(Denoiser):
    """The text encoder and the UNet."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def encode(self, prompt_ids: Tensor) -> Tensor:
        """The last hidden states [p, length, width]."""
        return self.text_encoder(prompt_ids).last_hidden_state

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: Tensor, prompt_index: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, encoded[prompt_index]).sample


class StableDiffusion(Family):
    name = "Stable Diffusion 1 or 2"
    pipeline_classes = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    parts = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
    presets = {name: PRESETS[name] for name in (SD14, "starter")}  # noqa: RUF012  a registry, which tests shorten
    default_preset = SD14
    single_file_types = ("v1", "v2", "inpainting", "inpainting_v2")
    hub_tag = "stable-diffusion"
    namings = {  # noqa: RUF012  a registry too
        "diffusers": Naming(published_name),
        "kohya": kohya_naming(partial(kohya_name, prefixes=KOHYA_PREFIXES)),
    }

    def why_unlike(self, pipe: DiffusionPipeline) -> str:
        if pipe.unet.config.addition_embed_type is not None:
            return f"its UNet expects {pipe.unet.config.addition_embed_type} embeddings too (a Stable Diffusion XL?)"
        return self.why_parts_do_not_fit(pipe)

    def why_parts_do_not_fit(self, pipe: DiffusionPipeline) -> str:
        """Why UNet, VAE, tokenizer, text encoder and scheduler do not fit together; empty if they do."""
        channels, latents = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
        if channels != latents:
            return f"its UNet takes {channels} channels where the latents have {latents} (an inpainting model?)"
        vocabulary = pipe.text_encoder.config.vocab_size
        if len(pipe.tokenizer) < vocabulary:
            tokens = len(pipe.tokenizer)
            return f"its tokenizer knows {tokens} of the text encoder's {vocabulary} tokens (a file is missing?)"
        prediction_type = pipe.scheduler.config.prediction_type
        if prediction_type not in PREDICTION_TYPES:
            return f"its scheduler predicts {prediction_type!r}, expected {' or '.join(PREDICTION_TYPES)}"
        return ""

    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}

    def image_models(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        return [pipe.unet, pipe.text_encoder, pipe.vae]

    def encode_images(self, pipe: DiffusionPipeline, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
        scale = pipe.vae.config.scaling_factor
        return posterior.mean.float().cpu() * scale, posterior.std.float().cpu() * scale

    def latent_shape(self, pipe: DiffusionPipeline, resolution: int) -> tuple[int, int, int]:
        side = resolution // pipe.vae_scale_factor
        return pipe.unet.config.in_channels, side, side

    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        return token_ids(pipe.tokenizer, prompts)

    def denoiser(self, pipe: DiffusionPipeline) -> StableDiffusionDenoiser:
        return StableDiffusionDenoiser(pipe.unet, pipe.text_encoder)

    def noise_schedule(self, pipe: DiffusionPipeline) -> DiffusionSchedule:
        return DiffusionSchedule(pipe.scheduler)

    def architecture(self, pipe: DiffusionPipeline) -> str:
        generation = "v2" if pipe.text_encoder.config.hidden_size == 1024 else "v1"
        return f"stable-diffusion-{generation}"
