"""Stable Diffusion XL and what was fine-tuned from it: two text encoders, a pooled prompt, a size as a condition."""

import re
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from vectorfit.export import Naming

from .family import Denoiser, Preset
from .layer_names import kohya_name, kohya_naming, published_name
from .stable_diffusion import StableDiffusion
from .text import token_ids

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
# kohya's scripts train the UNet of Stability's own code. Its blocks have two layers each, and their numbers go on
# from block to block: `down_blocks.1.attentions.0` is `input_blocks.4.1`.
STABILITYS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)")


def _stabilitys_block(match: re.Match[str]) -> str:
    side, block, kind, layer = match.groups()
    number = 3 * int(block) + int(layer)
    blocks = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
    return f"{blocks}.{int(kind == 'attentions')}"


def _kohya_name(path: str) -> str:
    model, _, rest = path.partition(".")
    if model == "unet":
        rest = _BLOCK.sub(_stabilitys_block, rest).replace("time_emb_proj", "emb_layers.1")
        for here, there in STABILITYS.items():
            rest = rest.replace(here, there)
    return kohya_name(f"{model}.{rest}", KOHYA_PREFIXES)


class StableDiffusionXLDenoiser(Denoiser):
    """Both text encoders and the UNet. `scale` is how many pixels the side of a latent pixel has."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.text_encoder_2 = pipe.unet, pipe.text_encoder, pipe.text_encoder_2
        self.scale = pipe.vae_scale_factor

    def encode(self, prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [p, length, width] of both text encoders side by side, and the pooled prompts [p, width]."""
        first, second = prompt_ids.chunk(2, 1)
        one = self.text_encoder(first, output_hidden_states=True)
        two = self.text_encoder_2(second, output_hidden_states=True)
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: tuple[Tensor, Tensor], prompt_index: Tensor) -> Tensor:
        words, pooled = (part[prompt_index] for part in encoded)
        # The base takes the size of the original, the corner of the cut and the size of the target. Here all photos
        # count as whole pictures of the target's size, which is also what the pipeline asks for when it generates.
        height, width = (self.scale * side for side in noisy.shape[-2:])
        sizes = pooled.new_tensor([height, width, 0, 0, height, width]).expand(len(noisy), -1)
        condition = {"text_embeds": pooled, "time_ids": sizes}
        return self.unet(noisy, timesteps, words, added_cond_kwargs=condition).sample


class StableDiffusionXL(StableDiffusion):
    name = "Stable Diffusion XL"
    pipeline_classes = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    parts = ("unet", "text_encoder", "text_encoder_2", "vae", "tokenizer", "tokenizer_2", "scheduler")
    presets = {  # noqa: RUF012  a registry
        # Never run on the real weights. The paper's rate; as many class images as diffusers' scripts draw; steps and
        # guidance are those of diffusers' pipeline.
        SDXL: Preset(
            resolution=1024,
            learning_rate=5e-5,
            max_train_steps=1000,
            num_class_images=100,
            num_inference_steps=50,
            guidance_scale=5.0,
        ),
    }
    default_preset = SDXL
    single_file_types = ("xl_base", "xl_inpaint", "xl_refiner", "playground-v2-5")
    hub_tag = "stable-diffusion-xl"
    namings = {  # noqa: RUF012  a registry too
        "diffusers": Naming(published_name),
        "kohya": kohya_naming(_kohya_name),
    }

    def why_unlike(self, pipe: DiffusionPipeline) -> str:
        config = pipe.unet.config
        if config.addition_embed_type != "text_time":
            return f"its UNet takes {config.addition_embed_type} embeddings, expected text_time"
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        projected = pipe.text_encoder_2.config.projection_dim
        if pooled != projected:  # the refiner takes five numbers, its score among them
            return f"its UNet takes pooled prompts of {pooled} numbers and not the encoder's {projected} (a refiner?)"
        return self.why_parts_do_not_fit(pipe)

    def adapted_models(self, pipe: DiffusionPipeline) -> dict[str, nn.Module]:
        return {**super().adapted_models(pipe), "text_encoder_2": pipe.text_encoder_2}

    def unreached(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        """The end of the first text encoder: the UNet takes the hidden states before its last layer."""
        encoder = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)  # a level that transformers dropped
        return [encoder.encoder.layers[-1], encoder.final_layer_norm]

    def image_models(self, pipe: DiffusionPipeline) -> list[nn.Module]:
        return [*super().image_models(pipe), pipe.text_encoder_2]

    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        return torch.cat([token_ids(tokenizer, prompts) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)], 1)

    def denoiser(self, pipe: DiffusionPipeline) -> Denoiser:
        return StableDiffusionXLDenoiser(pipe)

    def architecture(self, pipe: DiffusionPipeline) -> str:
        return "stable-diffusion-xl-v1-base"
