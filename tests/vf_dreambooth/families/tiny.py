"""A base of a few thousand parameters of every family, built from its config classes."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from starter import tokenizer
from tests.vf_dreambooth.conftest import build_tiny
from vf_dreambooth.families import Family
from vf_dreambooth.families.flux import Flux
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.families.stable_diffusion_3 import StableDiffusion3
from vf_dreambooth.families.stable_diffusion_xl import StableDiffusionXL
from vf_dreambooth.families.z_image import ZImage


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


FLOW = {"scaling_factor": 1.5, "shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False}


def t5(words: PreTrainedTokenizerBase, width: int) -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def stable_diffusion_3(with_t5: bool = True) -> DiffusionPipeline:
    words = tokenizer.build()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(**FLOW),
        text_encoder=CLIPTextModelWithProjection(clip_config(words)),
        tokenizer=words,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(words, 24)),
        tokenizer_2=words,
        text_encoder_3=t5(words, 48) if with_t5 else None,
        tokenizer_3=words if with_t5 else None,
    )


def flux(guidance: bool = True) -> DiffusionPipeline:
    words = tokenizer.build()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(**FLOW),
        text_encoder=CLIPTextModel(clip_config(words)),
        tokenizer=words,
        text_encoder_2=t5(words, 32),
        tokenizer_2=words,
    )


def z_image() -> DiffusionPipeline:
    words = tokenizer.build()
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 32, 32],
    )
    qwen = Qwen3Config(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
    )
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(**FLOW),
        text_encoder=Qwen3Model(qwen),
        tokenizer=words,
    )


BUILDERS = {
    StableDiffusion: build_tiny,
    StableDiffusionXL: stable_diffusion_xl,
    StableDiffusion3: stable_diffusion_3,
    Flux: flux,
    ZImage: z_image,
}


def tiny(family: type[Family], seed: int = 0) -> DiffusionPipeline:
    """A pipeline with random weights and, so that every part of it counts, random biases."""
    pipe = BUILDERS[family]()
    torch.manual_seed(seed)
    for part in pipe.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return pipe
