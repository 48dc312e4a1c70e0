"""Counts what VectorFit trains on each base, and estimates the memory, from the published configurations.

    python -m benchmarks.bases

No weights are needed: the models are built on the meta device. The table is in docs/bases.md.
"""

from types import SimpleNamespace

import torch
from diffusers import (
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from vf_dreambooth.families import family_of_class
from vf_dreambooth.footprint import GIB, Footprint, of_parts


def clip_l(model: type[nn.Module] = CLIPTextModel) -> nn.Module:
    """CLIP ViT-L/14's text encoder. Source: openai/clip-vit-large-patch14, config.json."""
    return model(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        )
    )


def clip_g() -> nn.Module:
    """OpenCLIP ViT-bigG/14's text encoder. Source: stable-diffusion-xl-base-1.0, text_encoder_2/config.json."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        )
    )


def t5_xxl() -> nn.Module:
    """T5 v1.1 XXL's encoder. Source: google/t5-v1_1-xxl, config.json."""
    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


def qwen3_4b() -> nn.Module:
    """Qwen3-4B. Source: Qwen/Qwen3-4B, config.json."""
    return Qwen3Model(
        Qwen3Config(
            vocab_size=151936,
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
        )
    )


def stable_diffusion_14() -> dict[str, nn.Module]:
    """Source: CompVis/stable-diffusion-v1-4, unet/config.json."""
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
    )
    return {"unet": unet, "text_encoder": clip_l()}


def stable_diffusion_xl() -> dict[str, nn.Module]:
    """Source: stabilityai/stable-diffusion-xl-base-1.0, unet/config.json."""
    unet = UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return {"unet": unet, "text_encoder": clip_l(), "text_encoder_2": clip_g()}


def stable_diffusion_35_medium() -> dict[str, nn.Module]:
    """Source: stabilityai/stable-diffusion-3.5-medium, transformer/config.json."""
    transformer = SD3Transformer2DModel(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    clip = {"text_encoder": clip_l(CLIPTextModelWithProjection), "text_encoder_2": clip_g()}
    return {"transformer": transformer, **clip, "text_encoder_3": t5_xxl()}


def stable_diffusion_35_large() -> dict[str, nn.Module]:
    """Source: stabilityai/stable-diffusion-3.5-large, transformer/config.json."""
    transformer = SD3Transformer2DModel(
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )
    return {**stable_diffusion_35_medium(), "transformer": transformer}


def flux_dev() -> dict[str, nn.Module]:
    """Source: black-forest-labs/FLUX.1-dev, transformer/config.json: diffusers' defaults, and guidance."""
    transformer = FluxTransformer2DModel(guidance_embeds=True)
    return {"transformer": transformer, "text_encoder": clip_l(), "text_encoder_2": t5_xxl()}


def flux_schnell() -> dict[str, nn.Module]:
    """Source: black-forest-labs/FLUX.1-schnell, transformer/config.json: diffusers' defaults."""
    return {**flux_dev(), "transformer": FluxTransformer2DModel()}


def z_image() -> dict[str, nn.Module]:
    """Source: Tongyi-MAI/Z-Image-Turbo, transformer/config.json: diffusers' defaults."""
    return {"transformer": ZImageTransformer2DModel(), "text_encoder": qwen3_4b()}


BASES = {
    "Stable Diffusion v1.4": ("StableDiffusionPipeline", stable_diffusion_14),
    "Stable Diffusion XL": ("StableDiffusionXLPipeline", stable_diffusion_xl),
    "Stable Diffusion 3.5 medium": ("StableDiffusion3Pipeline", stable_diffusion_35_medium),
    "Stable Diffusion 3.5 large": ("StableDiffusion3Pipeline", stable_diffusion_35_large),
    "Flux.1 dev": ("FluxPipeline", flux_dev),
    "Flux.1 schnell": ("FluxPipeline", flux_schnell),
    "Z-Image": ("ZImagePipeline", z_image),
}


def row(name: str, parts: str, counts: Footprint) -> str:
    cells = [name, parts, f"{counts.trained:,}", f"{counts.vectors:,}", f"{counts.weights:,}"]
    cells += [f"{100 * counts.trained / counts.weights:.4f} %", f"{4 * counts.trained / 1e6:.1f} MB"]
    memory = [counts.bytes(), counts.bytes(2, 2), counts.bytes(2, 2, square=True)]
    return f"| {' | '.join([*cells, *(f'{needed / GIB:.1f}' for needed in memory)])} |"


def rows() -> list[str]:
    """The table's rows: every base without its text encoders, and with those that can be trained."""
    found = []
    for name, (class_name, build) in BASES.items():
        with torch.device("meta"):
            parts = build()
        family, pipe = family_of_class(class_name), SimpleNamespace(**parts)
        found.append(row(name, next(iter(parts)), of_parts(family, pipe, text_encoders=False)))
        if len(family.adapted_models(pipe)) > 1:
            found.append(row(name, "and CLIP", of_parts(family, pipe, text_encoders=True)))
    return found


HEADER = """| base | trained | numbers | vectors | of | share | file | float32 | bf16 | bf16, square |
|--|--|--|--|--|--|--|--|--|--|"""

if __name__ == "__main__":
    print("\n".join([HEADER, *rows()]))
