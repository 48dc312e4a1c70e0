"""Stable Diffusion 3 and 3.5: two CLIP text encoders, T5 where the base has it, a transformer, flow matching."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit.export import Naming, Place

from .family import Denoiser, Preset
from .flow_transformer import FlowTransformer
from .layer_names import joined, kohya_name, kohya_naming, kohya_place, published_name
from .text import FrozenText, token_ids

SD35_MEDIUM, SD35_LARGE = "stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3.5-large"
T5_LENGTH = 256  # tokens, as diffusers' pipeline takes them
ONETRAINER_PREFIXES = {"transformer": "lora_transformer_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
KOHYA_PREFIXES = {**ONETRAINER_PREFIXES, "transformer": "lora_unet_"}
_BLOCK, _PICTURE, _PROMPT = "transformer_blocks.#", "joint_blocks.#.x_block", "joint_blocks.#.context_block"
# Stability's names, which kohya's scripts and ComfyUI keep.
ORIGINAL: dict[str, str | Place] = {
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    **joined(f"{_PICTURE}.attn.qkv", *(f"{_BLOCK}.attn.to_{part}" for part in "qkv")),
    **joined(f"{_PICTURE}.attn2.qkv", *(f"{_BLOCK}.attn2.to_{part}" for part in "qkv")),
    **joined(f"{_PROMPT}.attn.qkv", *(f"{_BLOCK}.attn.add_{part}_proj" for part in "qkv")),
    f"{_BLOCK}.attn.to_out.0": f"{_PICTURE}.attn.proj",
    f"{_BLOCK}.attn2.to_out.0": f"{_PICTURE}.attn2.proj",
    f"{_BLOCK}.attn.to_add_out": f"{_PROMPT}.attn.proj",
    f"{_BLOCK}.ff.net.0.proj": f"{_PICTURE}.mlp.fc1",
    f"{_BLOCK}.ff.net.2": f"{_PICTURE}.mlp.fc2",
    f"{_BLOCK}.ff_context.net.0.proj": f"{_PROMPT}.mlp.fc1",
    f"{_BLOCK}.ff_context.net.2": f"{_PROMPT}.mlp.fc2",
    f"{_BLOCK}.norm1.linear": f"{_PICTURE}.adaLN_modulation.1",
    f"{_BLOCK}.norm1_context.linear": f"{_PROMPT}.adaLN_modulation.1",
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),  # shift before scale
    "proj_out": "final_layer.linear",
}


class StableDiffusion3Denoiser(Denoiser):
    """The transformer and both CLIP text encoders. T5 is frozen: it encodes each prompt once."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__()
        self.transformer = pipe.transformer
        self.text_encoder, self.text_encoder_2 = pipe.text_encoder, pipe.text_encoder_2
        self.length = pipe.tokenizer.model_max_length
        t5 = pipe.text_encoder_3
        self.t5 = None if t5 is None else FrozenText(lambda ids: t5(ids.to(t5.device))[0])

    def encode(self, prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts' states [p, 2 lengths, width], CLIP's before T5's, and the pooled prompts [p, width]."""
        first, second, third = prompt_ids.tensor_split((self.length, 2 * self.length), 1)
        one = self.text_encoder(first, output_hidden_states=True)
        two = self.text_encoder_2(second, output_hidden_states=True)
        clip = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        width = self.transformer.config.joint_attention_dim
        # Without T5 there are zeros in its place, as in the base's training, which left it out now and then.
        t5 = clip.new_zeros(len(clip), T5_LENGTH, width) if self.t5 is None else torch.stack(self.t5(third))
        states = torch.cat([F.pad(clip, (0, width - clip.shape[-1])), t5.to(clip.dtype)], 1)
        return states, torch.cat([one.text_embeds, two.text_embeds], -1)

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: tuple[Tensor, Tensor], prompt_index: Tensor) -> Tensor:
        states, pooled = (part[prompt_index] for part in encoded)
        return self.transformer(noisy, states, pooled_projections=pooled, timestep=timesteps).sample


class StableDiffusion3(FlowTransformer):
    name = "Stable Diffusion 3"
    pipeline_classes = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    parts = ("transformer", "text_encoder", "text_encoder_2", "vae", "tokenizer", "tokenizer_2", "scheduler")
    presets = {  # noqa: RUF012  a registry
        # Never run on the real weights. The paper's rate; as many class images as diffusers' scripts draw; steps and
        # guidance are those of the models' cards.
        SD35_MEDIUM: Preset(1024, 5e-5, 1000, 100, 40, 4.5, train_text_encoder=False),
        SD35_LARGE: Preset(1024, 5e-5, 1000, 100, 28, 3.5, train_text_encoder=False),
    }
    default_preset = SD35_MEDIUM
    single_file_types = ("sd3", "sd35_medium", "sd35_large")
    hub_tag = "stable-diffusion-3"
    namings = {  # noqa: RUF012  a registry too
        "diffusers": Naming(published_name),
        "kohya": kohya_naming(partial(kohya_place, prefixes=KOHYA_PREFIXES, original=ORIGINAL)),
        "onetrainer": kohya_naming(partial(kohya_name, prefixes=ONETRAINER_PREFIXES)),
    }

    def absent_parts(self, folder: Path) -> list[str]:
        """T5, which takes three times the transformer's memory, and its tokenizer."""
        without = folder.is_dir() and not (folder / "text_encoder_3").exists()
        return ["text_encoder_3", "tokenizer_3"] if without else []

    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        clip = {"text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
        return {**super().adapted_models(pipe), **clip}

    def unreached(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        """The queries of the prompt in the last block, which gives out nothing but the picture."""
        return [pipe.transformer.transformer_blocks[-1].attn.add_q_proj]

    def naming(self, tool: str, pipe: DiffusionPipeline) -> Naming:
        """As for all, but that in the last block the prompt's scale and shift lie the other way round."""
        naming, last = super().naming(tool, pipe), len(pipe.transformer.transformer_blocks) - 1
        if tool != "kohya":
            return naming
        swapped = Place(f"joint_blocks.{last}.context_block.adaLN_modulation.1", swapped=True)
        original = {**ORIGINAL, f"transformer_blocks.{last}.norm1_context.linear": swapped}
        return kohya_naming(partial(kohya_place, prefixes=KOHYA_PREFIXES, original=original))

    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        length = pipe.tokenizer.model_max_length
        ids = [token_ids(tokenizer, prompts, length) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
        if pipe.text_encoder_3 is not None:
            ids.append(token_ids(pipe.tokenizer_3, prompts, T5_LENGTH))
        return torch.cat(ids, 1)

    def denoiser(self, pipe: DiffusionPipeline) -> Denoiser:
        return StableDiffusion3Denoiser(pipe)

    def architecture(self, pipe: DiffusionPipeline) -> str:
        blocks = len(pipe.transformer.transformer_blocks)
        return {38: "stable-diffusion-v3.5-large"}.get(blocks, "stable-diffusion-v3.5-medium")
