"""Counts what VectorFit trains on each base, and estimates the memory, from the published configurations.

    python -m benchmarks.bases

No weights are needed: the models are built on the meta device. The table is in docs/bases.md.
"""

from dataclasses import dataclass

import torch
from diffusers import (
    DiffusionPipeline,
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

import vectorfit as vf
from vectorfit.modules import named_modules
from vf_dreambooth.families import family_of_class
from vf_training.methods import layers_inside

ADAMW = 16  # bytes of a trained number: itself, its gradient and two moments, in float32


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


@dataclass(frozen=True)
class Counts:
    """What is trained, of how many parameters, and the bytes of frozen weights and factors at a byte a number."""

    trained: int
    vectors: int
    total: int
    factors: int  # numbers in U and Vh of all layers
    square: int  # numbers in the square one of the two

    def gigabytes(self, weight: int, factor: int, *, square: bool = False) -> float:
        """Weights, factors and what AdamW keeps. Activations, VAE and frozen text encoders come on top."""
        factors = self.square if square else self.factors
        return (weight * self.total + factor * factors + ADAMW * self.trained) / 2**30


def count(class_name: str, parts: dict[str, nn.Module], *, text: bool) -> Counts:
    """The counts of a base, with the text encoders that can be trained or without any."""
    pipe: DiffusionPipeline = type("Parts", (), parts)()
    family = family_of_class(class_name)
    text = text and len(family.adapted_models(pipe)) > 1
    models = family.models_to_train(pipe, text_encoders=text)
    unreached = family.unreached(pipe)
    paths = tuple(path for path, module in named_modules(models) if any(module is left for left in unreached))
    plan = vf.plan(models, vf.VectorFitConfig(exclude_modules=layers_inside(models, paths)))
    shapes = [layer.shape for layer in plan.layers if "sigma" in layer.vectors]
    factors = sum(min(shape) * sum(shape) for shape in shapes)
    return Counts(
        plan.num_trainable, plan.num_vectors, plan.num_total, factors, sum(min(shape) ** 2 for shape in shapes)
    )


def row(name: str, parts: str, counts: Counts) -> str:
    cells = [name, parts, f"{counts.trained:,}", f"{counts.vectors:,}", f"{counts.total:,}"]
    cells += [f"{100 * counts.trained / counts.total:.4f} %", f"{4 * counts.trained / 1e6:.1f} MB"]
    memory = [counts.gigabytes(4, 4), counts.gigabytes(2, 2), counts.gigabytes(2, 2, square=True)]
    return f"| {' | '.join([*cells, *(f'{gigabytes:.1f}' for gigabytes in memory)])} |"


def rows() -> list[str]:
    """The table's rows: every base without its text encoders, and with those that can be trained."""
    found = []
    for name, (class_name, build) in BASES.items():
        with torch.device("meta"):
            parts = build()
        alone, together = (count(class_name, parts, text=text) for text in (False, True))
        found.append(row(name, "unet" if "unet" in parts else "transformer", alone))
        if together != alone:
            found.append(row(name, "and CLIP", together))
    return found


HEADER = """| base | trained | numbers | vectors | of | share | file | float32 | bf16 | bf16, square |
|--|--|--|--|--|--|--|--|--|--|"""

if __name__ == "__main__":
    print("\n".join([HEADER, *rows()]))
