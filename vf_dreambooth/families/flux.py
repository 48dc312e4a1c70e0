"""Flux.1: dev, which takes its guidance as a number, and schnell, which has none. CLIP's pooled prompt, and T5."""

from collections.abc import Sequence
from functools import partial

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit.export import Naming

from .family import Denoiser, Preset
from .flow_schedule import PATCH
from .flow_transformer import FlowTransformer
from .layer_names import kohya_name, kohya_naming, published_name
from .text import FrozenText, token_ids

FLUX_DEV, FLUX_SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
T5_LENGTH = 512  # tokens, as diffusers' pipeline takes them
ONETRAINER_PREFIXES = {"transformer": "lora_transformer_", "text_encoder": "lora_te1_"}


class FluxDenoiser(Denoiser):
    """The transformer and the CLIP text encoder. T5 is frozen: it encodes each prompt once.

    dev was distilled to predict what guidance of a given strength would. Guidance of 1 is the flow itself, and so what
    the photos' noise teaches; at another strength the loss would undo the distillation.
    """

    guidance = 1.0

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__()
        self.transformer, self.text_encoder = pipe.transformer, pipe.text_encoder
        self.length = pipe.tokenizer.model_max_length
        t5 = pipe.text_encoder_2
        self.t5 = FrozenText(lambda ids: t5(ids.to(t5.device))[0])

    def encode(self, prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
        """T5's states [p, length, width] and CLIP's pooled prompts [p, width]."""
        clip, t5 = prompt_ids.tensor_split((self.length,), 1)
        pooled = self.text_encoder(clip).pooler_output
        return torch.stack(self.t5(t5)).to(pooled.dtype), pooled

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: tuple[Tensor, Tensor], prompt_index: Tensor) -> Tensor:
        states, pooled = (part[prompt_index] for part in encoded)
        squares = F.pixel_unshuffle(noisy, PATCH)  # a token is a square of latent pixels
        rows, columns = squares.shape[-2:]
        index = torch.arange(rows * columns, device=noisy.device)
        places = torch.stack([torch.zeros_like(index), index // columns, index % columns], 1)
        guided = self.transformer.config.guidance_embeds
        output = self.transformer(
            hidden_states=squares.flatten(2).transpose(1, 2),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=timesteps / 1000,
            img_ids=places.to(noisy.dtype),
            txt_ids=noisy.new_zeros(states.shape[1], 3),
            guidance=noisy.new_full((len(noisy),), self.guidance) if guided else None,
        ).sample
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


class Flux(FlowTransformer):
    name = "Flux.1"
    pipeline_classes = ("FluxPipeline", "FluxImg2ImgPipeline")
    parts = ("transformer", "text_encoder", "text_encoder_2", "vae", "tokenizer", "tokenizer_2", "scheduler")
    presets = {  # noqa: RUF012  a registry
        # Never run on the real weights. The paper's rate; as many class images as diffusers' scripts draw; steps and
        # guidance are those of the models' cards.
        FLUX_DEV: Preset(1024, 5e-5, 1000, 100, 50, 3.5, train_text_encoder=False),
        FLUX_SCHNELL: Preset(1024, 5e-5, 1000, 100, 4, 0.0, train_text_encoder=False),
    }
    default_preset = FLUX_DEV
    single_file_types = ("flux-dev", "flux-schnell")
    hub_tag = "flux"
    takes_negative_prompt = False  # its pipeline passes it by
    namings = {  # noqa: RUF012  a registry too
        "diffusers": Naming(published_name),
        "onetrainer": kohya_naming(partial(kohya_name, prefixes=ONETRAINER_PREFIXES)),
    }

    def channels(self, pipe: DiffusionPipeline) -> int:
        return super().channels(pipe) // PATCH**2

    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        return {**super().adapted_models(pipe), "text_encoder": pipe.text_encoder}

    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        return torch.cat([token_ids(pipe.tokenizer, prompts), token_ids(pipe.tokenizer_2, prompts, T5_LENGTH)], 1)

    def denoiser(self, pipe: DiffusionPipeline) -> Denoiser:
        return FluxDenoiser(pipe)

    def architecture(self, pipe: DiffusionPipeline) -> str:
        return "flux-1-dev" if pipe.transformer.config.guidance_embeds else "flux-1-schnell"
