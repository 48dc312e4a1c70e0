"""A base of a few thousand parameters of every family, built from its config classes."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from starter import tokenizer
from tests.vf_dreambooth.conftest import build_tiny
from vf_dreambooth.families import Family
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.families.stable_diffusion_xl import StableDiffusionXL


def clip_config(vocabulary: PreTrainedTokenizerBase, width: int = 16) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=tokenizer.MAX_LENGTH,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=vocabulary.pad_token_id,
    )


def vae(**more: object) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


def stable_diffusion_xl() -> DiffusionPipeline:
    words = tokenizer.build()
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=2,  # as the real one, whose blocks kohya's names count
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=16 + 24,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=24 + 6 * 4,
    )
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config(words)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(words, 24)),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )


BUILDERS = {StableDiffusion: build_tiny, StableDiffusionXL: stable_diffusion_xl}


def tiny(family: type[Family], seed: int = 0) -> DiffusionPipeline:
    """A pipeline with random weights; biases are random too, so that every part of it counts."""
    torch.manual_seed(seed)
    pipe = BUILDERS[family]()
    for part in pipe.components.values():
        for name, parameter in part.named_parameters() if isinstance(part, torch.nn.Module) else ():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02)
    return pipe
