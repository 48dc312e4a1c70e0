"""Z-Image: one stream of tokens of picture and prompt, and a Qwen language model that reads the prompt."""

from collections.abc import Sequence
from functools import partial

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from vectorfit.export import Naming

from .family import Denoiser, Preset
from .flow_transformer import FlowTransformer
from .layer_names import kohya_name, kohya_naming, published_name
from .text import FrozenText

Z_IMAGE, Z_IMAGE_TURBO = "Tongyi-MAI/Z-Image", "Tongyi-MAI/Z-Image-Turbo"
LENGTH = 512  # tokens of a prompt, as diffusers' pipeline takes them
KOHYA_PREFIXES = {"transformer": "lora_unet_"}


class ZImageDenoiser(Denoiser):
    """The transformer. The language model is frozen: it encodes each prompt once."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__()
        self.transformer, encoder = pipe.transformer, pipe.text_encoder

        def encode(rows: Tensor) -> Tensor:
            ids, given = rows.to(encoder.device).chunk(2, 1)
            states = encoder(input_ids=ids, attention_mask=given.bool(), output_hidden_states=True).hidden_states[-2]
            return states[:, : sum(given[0].tolist())]

        self.qwen = FrozenText(encode)

    def encode(self, prompt_ids: Tensor) -> list[Tensor]:
        """The states [length, width] of each prompt, of as many tokens as it has."""
        return self.qwen(prompt_ids)

    def predict(self, noisy: Tensor, timesteps: Tensor, encoded: list[Tensor], prompt_index: Tensor) -> Tensor:
        # The model's time runs from noise to picture, and so does its velocity.
        time = (1000 - timesteps) / 1000
        frames = list(noisy.unsqueeze(2).unbind(0))
        states = [encoded[index].to(noisy.dtype) for index in prompt_index.tolist()]
        output = self.transformer(frames, time, states).sample
        return -torch.stack(output).squeeze(2)


class ZImage(FlowTransformer):
    name = "Z-Image"
    pipeline_classes = ("ZImagePipeline", "ZImageImg2ImgPipeline")
    parts = ("transformer", "text_encoder", "vae", "tokenizer", "scheduler")
    presets = {  # noqa: RUF012  a registry
        # Never run on the real weights. The paper's rate; as many class images as diffusers' scripts draw; Turbo's
        # steps and guidance are those of diffusers' example, the other's those of its card.
        Z_IMAGE: Preset(1024, 5e-5, 1000, 100, 50, 4.0, train_text_encoder=False),
        Z_IMAGE_TURBO: Preset(1024, 5e-5, 1000, 100, 8, 0.0, train_text_encoder=False),
    }
    default_preset = Z_IMAGE
    single_file_types = ("z-image-turbo",)
    hub_tag = "z-image"
    namings = {  # noqa: RUF012  a registry too
        "diffusers": Naming(published_name),
        "kohya": kohya_naming(partial(kohya_name, prefixes=KOHYA_PREFIXES)),
    }

    def tokenize(self, pipe: DiffusionPipeline, prompts: Sequence[str]) -> Tensor:
        """Token ids and, after them, which of them are the prompt's, [p, 2 lengths]."""
        chats = [
            pipe.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for prompt in prompts
        ]
        encoded = pipe.tokenizer(chats, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        return torch.cat([encoded.input_ids, encoded.attention_mask], 1)

    def denoiser(self, pipe: DiffusionPipeline) -> Denoiser:
        return ZImageDenoiser(pipe)

    def architecture(self, pipe: DiffusionPipeline) -> str:
        return "z-image"
