"""Flux.1: dev, which takes its guidance as a number, and schnell, which has none. CLIP's pooled prompt, and T5."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit.export import Naming, Place

from .family import Denoiser, Preset
from .flow_schedule import PATCH
from .flow_transformer import FlowTransformer
from .layer_names import joined, kohya_name, kohya_naming, kohya_place, published_name
from .text import FrozenText, token_ids

FLUX_DEV, FLUX_SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
# Tokens of a prompt that the models were trained with. Source: diffusers' documentation of Flux.
T5_LENGTH = {FLUX_DEV: 512, FLUX_SCHNELL: 256}
ONETRAINER_PREFIXES = {"transformer": "lora_transformer_", "text_encoder": "lora_te1_"}
KOHYA_PREFIXES = {"transformer": "lora_unet_", "text_encoder": "lora_te1_"}
_DOUBLE, _SINGLE, _FEATURES = "transformer_blocks.#", "single_transformer_blocks.#", "time_text_embed"
# Black Forest Labs' names, which kohya's scripts and ComfyUI keep.
ORIGINAL: dict[str, str | Place] = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    f"{_FEATURES}.timestep_embedder.linear_1": "time_in.in_layer",
    f"{_FEATURES}.timestep_embedder.linear_2": "time_in.out_layer",
    f"{_FEATURES}.text_embedder.linear_1": "vector_in.in_layer",
    f"{_FEATURES}.text_embedder.linear_2": "vector_in.out_layer",
    f"{_FEATURES}.guidance_embedder.linear_1": "guidance_in.in_layer",
    f"{_FEATURES}.guidance_embedder.linear_2": "guidance_in.out_layer",
    **joined("double_blocks.#.img_attn.qkv", *(f"{_DOUBLE}.attn.to_{part}" for part in "qkv")),
    **joined("double_blocks.#.txt_attn.qkv", *(f"{_DOUBLE}.attn.add_{part}_proj" for part in "qkv")),
    f"{_DOUBLE}.attn.to_out.0": "double_blocks.#.img_attn.proj",
    f"{_DOUBLE}.attn.to_add_out": "double_blocks.#.txt_attn.proj",
    f"{_DOUBLE}.ff.net.0.proj": "double_blocks.#.img_mlp.0",
    f"{_DOUBLE}.ff.net.2": "double_blocks.#.img_mlp.2",
    f"{_DOUBLE}.ff_context.net.0.proj": "double_blocks.#.txt_mlp.0",
    f"{_DOUBLE}.ff_context.net.2": "double_blocks.#.txt_mlp.2",
    f"{_DOUBLE}.norm1.linear": "double_blocks.#.img_mod.lin",
    f"{_DOUBLE}.norm1_context.linear": "double_blocks.#.txt_mod.lin",
    # The feed-forward is four times as wide as queries, keys and values.
    **{f"{_SINGLE}.attn.to_{part}": Place("single_blocks.#.linear1", first, of=7) for first, part in enumerate("qkv")},
    f"{_SINGLE}.proj_mlp": Place("single_blocks.#.linear1", 3, shares=4, of=7),
    f"{_SINGLE}.proj_out": "single_blocks.#.linear2",
    f"{_SINGLE}.norm.linear": "single_blocks.#.modulation.lin",
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),  # shift before scale
    "proj_out": "final_layer.linear",
}


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
        "kohya": kohya_naming(partial(kohya_place, prefixes=KOHYA_PREFIXES, original=ORIGINAL)),
        "onetrainer": kohya_naming(partial(kohya_name, prefixes=ONETRAINER_PREFIXES)),
    }

    def kind(self, pipe: DiffusionPipeline) -> str:
        """Which of the two published models a base is or comes from: dev takes its guidance as a number."""
        return FLUX_DEV if pipe.transformer.config.guidance_embeds else FLUX_SCHNELL

    def channels(self, pipe: DiffusionPipeline) -> int:
        return super().channels(pipe) // PATCH**2

    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        return {**super().adapted_models(pipe), "text_encoder": pipe.text_encoder}

    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        length = T5_LENGTH[self.kind(pipe)]
        return torch.cat([token_ids(pipe.tokenizer, prompts), token_ids(pipe.tokenizer_2, prompts, length)], 1)

    def call_arguments(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        return {"max_sequence_length": T5_LENGTH[self.kind(pipe)]}

    def denoiser(self, pipe: DiffusionPipeline) -> Denoiser:
        return FluxDenoiser(pipe)

    def architecture(self, pipe: DiffusionPipeline) -> str:
        return {FLUX_DEV: "flux-1-dev", FLUX_SCHNELL: "flux-1-schnell"}[self.kind(pipe)]
