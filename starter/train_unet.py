"""Trains the starter's text encoder and UNet together on latents of scenes: `python -m starter.train_unet`."""

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import scenes, tokenizer, world
from .fitting import arguments, autocast, device, fit
from .layout import PIPELINE, save_half

CAPTION_DROPOUT = 0.1  # share of captions left empty, which classifier-free guidance needs
TERSE = 0.5  # share of captions without an article, half of them with a name
PREVIEW_PROMPTS = (
    "a photo of a dog in the snow",
    "a bicycle on the beach",
    "an owl in the jungle",
    "a red car with a city in the background",
    "a teapot on top of a wooden floor",
    "a cat with a blue house in the background",
    "a purple backpack on a cobblestone street",
    "a photo of a bear with a mountain in the background",
)


class TextToNoise(nn.Module):
    """Text encoder and UNet as one module, which the training loop sees."""

    def __init__(self, vocabulary: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.MAX_LENGTH,
                bos_token_id=vocabulary.bos_token_id,
                eos_token_id=vocabulary.eos_token_id,
                pad_token_id=vocabulary.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=scenes.world.SIZE // 4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(96, 96, 192),
            layers_per_block=1,
            cross_attention_dim=128,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, timesteps, self.text_encoder(token_ids).last_hidden_state).sample


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def terse_ids(data: scenes.Scenes, vocabulary: CLIPTokenizer) -> torch.Tensor:
    """Token ids [n, 48] of captions without an article: "a photo of red dog", and every other one with a name instead.

    Where captions always have an article the model comes to pass that place by, whatever stands there, and "a photo of
    sks dog" is "a photo of a dog" to it. Every glyph in every colour has a name of its own, a token for a byte that no
    ASCII text holds, so that no word of a user is one: "a photo of NAME dog". From these the model learns that a word
    it does not know, before the class, means one thing of that class.
    """
    unspoken = [index for token, index in sorted(vocabulary.get_vocab().items()) if not token.isascii()]
    names: dict[tuple[str, str | None], int] = {}
    texts, own = [], []
    for index, (text, scene) in enumerate(zip(data.captions, data.scenes, strict=True)):
        own.append(names.setdefault((scene.glyph, scene.color), unspoken[len(names)]))
        bare = f"sks {scene.cls}" if index % 2 else world.described(scene).split(" ", 1)[1]
        texts.append(text.replace(world.described(scene), bare, 1))
    ids = vocabulary(texts, padding="max_length", return_tensors="pt").input_ids
    return torch.where(ids == vocabulary.get_vocab()["sks</w>"], torch.tensor(own)[:, None], ids)


def lend_meaning(embedding: nn.Embedding, spoken: torch.Tensor, colors: torch.Tensor) -> None:
    """Gives every word that no caption speaks an embedding among the colours': their mean, and a draw of their spread.

    Training leaves such embeddings as they were drawn, in directions that the model has learned to pass by. In a large
    model every word has been read at some time, rare ones too; here the words that describe a thing are the colours.
    """
    weight, silent = embedding.weight.data, torch.ones(len(embedding.weight), dtype=torch.bool)
    silent[spoken.unique()] = False
    mean, spread = weight[colors].mean(0), weight[colors] - weight[colors].mean(0)
    draws = torch.randn(int(silent.sum()), len(colors), generator=torch.Generator().manual_seed(0)).to(weight)
    weight[silent] = mean + draws @ spread / len(colors) ** 0.5


def encode_scenes(vae: AutoencoderKL, data: scenes.Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [n, 4, 16, 16] of every scene's latent, scaled to unit variance."""
    means, deviations = [], []
    for start in range(0, len(data.captions), 100):
        index = torch.arange(start, min(start + 100, len(data.captions)))
        with torch.no_grad(), autocast():
            posterior = vae.encode(data.batch(index, device())).latent_dist
        means.append(posterior.mean.float())
        deviations.append(posterior.std.float())
    scale = vae.config.scaling_factor
    return torch.cat(means) * scale, torch.cat(deviations) * scale


def cached_latents(vae: AutoencoderKL, data: scenes.Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """`encode_scenes`, kept in the work folder for as long as the VAE is the same."""
    digest = hashlib.sha256(b"".join(v.detach().cpu().numpy().tobytes() for v in vae.state_dict().values()))
    path = scenes.WORK / f"latents-{digest.hexdigest()[:12]}-{len(data.captions)}.pt"
    if not path.exists():
        torch.save(encode_scenes(vae, data), path)
    mean, deviation = torch.load(path, map_location=device(), weights_only=True)
    return mean, deviation


def pipeline(model: TextToNoise, vae: AutoencoderKL, vocabulary: CLIPTokenizer) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=vocabulary,
        unet=model.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _preview(pipe: StableDiffusionPipeline, path: Path) -> str:
    generator = [torch.Generator(device()).manual_seed(seed) for seed in range(len(PREVIEW_PROMPTS) * 4)]
    prompts = [prompt for prompt in PREVIEW_PROMPTS for _ in range(4)]
    size = scenes.world.SIZE
    images = pipe(
        prompts, num_inference_steps=20, guidance_scale=4.0, generator=generator, height=size, width=size
    ).images
    sheet = Image.new("RGB", (8 * size, 4 * size))
    for index, image in enumerate(images):
        sheet.paste(image, (index % 8 * size, index // 8 * size))
    sheet.resize((16 * size, 8 * size)).save(path)
    return str(path.name)


def main() -> None:
    flags = arguments(__doc__, steps=12600, batch=48, rate=1e-3, scenes=50000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED)
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae", dtype=torch.float32).to(device()).eval()
    vocabulary = tokenizer.build()
    token_ids = vocabulary(data.captions, padding="max_length", return_tensors="pt").input_ids
    terse = terse_ids(data, vocabulary)
    empty = vocabulary("", padding="max_length", return_tensors="pt").input_ids
    mean, deviation = cached_latents(vae, data)
    torch.manual_seed(0)
    model, schedule = TextToNoise(vocabulary).to(device()), scheduler()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(mean), (flags.batch,), generator=generator)
        shape = (flags.batch, *mean.shape[1:])
        spread, noise = torch.randn((2, *shape), generator=generator).to(device())
        latents = mean[index] + deviation[index] * spread
        # Logit-normal (Esser et al. 2024): most steps go where shapes form, between noise and detail.
        timesteps = (1000 * torch.randn(flags.batch, generator=generator).sigmoid()).long().to(device())
        unsaid = torch.rand(flags.batch, 1, generator=generator) < CAPTION_DROPOUT
        short = torch.rand(flags.batch, 1, generator=generator) < TERSE
        caption = torch.where(short, terse[index], token_ids[index])
        words = torch.where(unsaid, empty, caption).to(device())
        predicted = model(schedule.add_noise(latents, noise, timesteps), timesteps, words)
        return F.mse_loss(predicted.float(), noise)

    pipe = pipeline(model, vae, vocabulary)
    fit(
        "unet",
        model,
        loss,
        steps=flags.steps,
        rate=flags.rate,
        preview=lambda path: _preview(pipe, path),
        preview_every=500,
    )
    tokenizer.build().save_pretrained(PIPELINE / "tokenizer")  # a fresh one: use leaves padding settings behind
    pipe.scheduler.save_pretrained(PIPELINE / "scheduler")
    colors = torch.tensor([vocabulary.get_vocab()[f"{name}</w>"] for name in world.COLORS])
    spoken = torch.cat([token_ids.flatten(), terse.flatten()])
    lend_meaning(model.text_encoder.get_input_embeddings(), spoken.to(device()), colors.to(device()))
    save_half(model.text_encoder, PIPELINE / "text_encoder")
    save_half(model.unet, PIPELINE / "unet")
    pipe.save_config(PIPELINE)


if __name__ == "__main__":
    main()
