"""Trains the starter's text encoder and UNet together on latents of scenes: `python -m starter.train_unet`."""

import copy
import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import channels_last, drawings, encoders, judge, scenes, tokenizer, world
from .fitting import arguments, autocast, device, fast_half, fit
from .layout import PIPELINE, save_half

CAPTION_DROPOUT = 0.1  # share of captions left empty, which classifier-free guidance needs
TERSE = 0.5  # share of captions without an article, half of them with a name
ALIGNMENT = 0.3  # weight of the agreement with the judge
NOISIER = 0.7  # how far the timesteps' logit-normal leans to noise: there the caption decides what becomes of it
FAINTEST = 0.02  # share of the scene's power under which a timestep's weight grows no more
PREVIEW_GUIDANCE = 6.0
FORMS = 3  # captions drawn per scene; a step takes one of them
PREVIEW_PROMPTS = (
    "a photo of a dog in the snow",
    "a bicycle on the beach",
    "an owl in the jungle",
    "a red car with a city in the background",
    "a pumpkin on top of a wooden floor",
    "a cat next to a bottle on top of a white rug",
    "a striped purple backpack on a cobblestone street",
    "a guitar with the Eiffel Tower in the background",
)


class TextToNoise(nn.Module):
    """Text encoder and UNet as one module, which the training loop sees."""

    def __init__(self, vocabulary: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary) + len(drawings.training()),  # the drawings' names, left out when saved
                hidden_size=160,
                intermediate_size=640,
                num_hidden_layers=2,
                num_attention_heads=5,
                max_position_embeddings=tokenizer.MAX_LENGTH,
                bos_token_id=vocabulary.bos_token_id,
                eos_token_id=vocabulary.eos_token_id,
                pad_token_id=vocabulary.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=scenes.world.SIZE // 8,
            in_channels=8,
            out_channels=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(96, 128, 256),
            layers_per_block=1,
            cross_attention_dim=160,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        width = self.unet.config.block_out_channels[-1]
        self.seen = nn.Sequential(nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, judge.WIDTHS[-1], 1))
        self.unet.mid_block.register_forward_hook(self._keep)
        self.middle: torch.Tensor | None = None

    def _keep(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.middle = output

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, token_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise, and what the judge would see in the scene without it [n, 192, 4, 4]."""
        noise = self.unet(noisy, timesteps, self.text_encoder(token_ids).last_hidden_state).sample
        middle, self.middle = self.middle, None  # a module that holds a graph cannot be copied
        return noise, self.seen(middle)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def captions(data: scenes.Scenes, vocabulary: CLIPTokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n, FORMS, 32] of captions with articles, and of captions without, every other one with a name.

    Where captions always have an article the model comes to pass that place by, whatever stands there, and "a photo of
    sks dog" is "a photo of a dog" to it. Every drawing has a name of its own, a token that no text is read as: "a photo
    of NAME dog". From these the model learns that a word it does not know, before the class, means one thing of it.
    """
    named = {drawing: len(vocabulary) + index for index, drawing in enumerate(drawings.training())}
    sks = vocabulary.get_vocab()["sks</w>"]
    said, terse, own = [], [], []
    for row, scene in enumerate(data.scenes):
        rng = np.random.default_rng((6, row))
        for form in range(FORMS):
            text, described = world.caption(scene, rng), world.described(scene.thing)
            bare = scene.thing.described() if form % 2 else f"sks {scene.thing.described()}"
            said.append(text)
            terse.append(text.replace(described, bare, 1))
            own.append(named[scene.thing.drawing])
    full, short = (vocabulary(texts, padding="max_length", return_tensors="pt").input_ids for texts in (said, terse))
    short = torch.where(short == sks, torch.tensor(own)[:, None], short)
    return full.unflatten(0, (-1, FORMS)), short.unflatten(0, (-1, FORMS))


def settle_words(embedding: nn.Embedding, spoken: torch.Tensor, words: int) -> torch.Tensor:
    """Weight [words, d] for the saved text encoder: the names are cut off, and words never spoken get a meaning.

    Such a word's embedding is drawn among the names' (their mean, and a draw of their spread): before a class it reads
    as "one of these". Training leaves it as it was at first, in a direction that the model has learned to pass by.
    """
    weight = embedding.weight.detach().clone()
    silent = torch.ones(words, dtype=torch.bool)
    silent[spoken[spoken < words].unique()] = False
    names = weight[words:]
    draws = torch.randn(int(silent.sum()), len(names), generator=torch.Generator().manual_seed(0)).to(weight)
    weight = weight[:words]
    weight[silent] = names.mean(0) + draws @ (names - names.mean(0)) / len(names) ** 0.5
    return weight


def encode_scenes(vae: AutoencoderKL, data: scenes.Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [n, 8, 16, 16], fp16, of every scene's latent, scaled to unit variance."""
    means, deviations, scale = [], [], vae.config.scaling_factor
    for start in range(0, len(data.captions), 100):
        index = torch.arange(start, min(start + 100, len(data.captions)))
        with torch.no_grad(), autocast():
            posterior = vae.encode(data.batch(index, device())).latent_dist
        means.append(posterior.mean.float() * scale)
        deviations.append(posterior.std.float() * scale)
    return torch.cat(means).half(), torch.cat(deviations).half()


def cached_latents(vae: AutoencoderKL, data: scenes.Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    """`encode_scenes`, kept in the work folder for as long as the VAE is the same."""
    digest = hashlib.sha256(b"".join(v.detach().cpu().numpy().tobytes() for v in vae.state_dict().values()))
    path = scenes.WORK / f"latents-{digest.hexdigest()[:12]}-{len(data.captions)}.pt"
    if not path.exists():
        torch.save(encode_scenes(vae, data), path)
    mean, deviation = torch.load(path, map_location=device(), weights_only=True)
    return mean, deviation


def judge_features(data: scenes.Scenes) -> torch.Tensor:
    """What the judge sees in every scene [n, 192, 4, 4], fp16, each channel of mean 0 and deviation 1.

    The UNet's middle learns to say the same of the noisy scene. Source: representation alignment, Yu et al. 2024 (arXiv
    2410.06940), who report faster training of transformers by it; what it gains here is not measured.
    """
    path = scenes.WORK / f"judge-features-{len(data.captions)}.pt"
    if not path.exists():
        critic, parts = judge.load().to(device()), []
        for start in range(0, len(data.captions), 200):
            images = encoders.as_input(data.images[start : start + 200].to(device()))
            with torch.no_grad(), autocast():
                parts.append(critic.features(images).float().cpu())
        features = torch.cat(parts)
        deviation, mean = torch.std_mean(features, (0, 2, 3), keepdim=True)
        torch.save(((features - mean) / (deviation + 1e-3)).half(), path)
    return torch.load(path, map_location=device(), weights_only=True)


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
    """Two pictures of every prompt as one sheet, drawn in float32."""
    generator = [torch.Generator(device()).manual_seed(seed) for seed in range(len(PREVIEW_PROMPTS) * 2)]
    prompts = [prompt for prompt in PREVIEW_PROMPTS for _ in range(2)]
    size = scenes.world.SIZE
    images = pipe(
        prompts, num_inference_steps=20, guidance_scale=PREVIEW_GUIDANCE, generator=generator, height=size, width=size
    ).images
    sheet = Image.new("RGB", (8 * size, 2 * size))
    for index, image in enumerate(images):
        sheet.paste(image, (index % 8 * size, index // 8 * size))
    sheet.save(path)
    return str(path.name)


def save(model: TextToNoise, vocabulary: CLIPTokenizer, spoken: torch.Tensor) -> None:
    """Writes text encoder and UNet, the former without the drawings' names."""
    words = len(vocabulary)
    text_encoder = copy.deepcopy(model.text_encoder).cpu()
    table = text_encoder.get_input_embeddings()
    weight = settle_words(table, spoken, words)
    text_encoder.resize_token_embeddings(words)
    text_encoder.get_input_embeddings().weight.data.copy_(weight)
    save_half(text_encoder, PIPELINE / "text_encoder")
    save_half(model.unet, PIPELINE / "unet")


def main() -> None:
    flags = arguments(__doc__, steps=20000, batch=48, rate=1e-3, scenes=60000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED)
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae", dtype=torch.float32).to(device()).eval()
    vocabulary = tokenizer.build()
    said, terse = captions(data, vocabulary)
    empty = vocabulary("", padding="max_length", return_tensors="pt").input_ids
    mean, deviation = cached_latents(vae, data)
    features = judge_features(data)
    torch.manual_seed(0)
    half = torch.bfloat16 if fast_half() else torch.float32
    model, schedule = TextToNoise(vocabulary).to(device(), half), scheduler()
    if device().type == "cpu":
        channels_last.lay_out(model)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(mean), (flags.batch,), generator=generator)
        form = torch.randint(FORMS, (flags.batch,), generator=generator)
        spread, noise = torch.randn((2, flags.batch, *mean.shape[1:]), generator=generator).to(device())
        latents = mean[index].float() + deviation[index].float() * spread
        # Logit-normal (Esser et al. 2024): most steps go where shapes form, between noise and detail.
        timesteps = (1000 * (torch.randn(flags.batch, generator=generator) + NOISIER).sigmoid()).long().to(device())
        unsaid = torch.rand(flags.batch, 1, generator=generator) < CAPTION_DROPOUT
        short = torch.rand(flags.batch, 1, generator=generator) < TERSE
        words = torch.where(unsaid, empty, torch.where(short, terse[index, form], said[index, form]))
        noisy = schedule.add_noise(latents, noise, timesteps).to(half)
        predicted, seen = model(noisy.to(memory_format=torch.channels_last), timesteps, words.to(device()))
        alike = F.cosine_similarity(seen.float(), features[index].float(), dim=1).mean()
        # The error in velocity (Salimans & Ho 2022): the error in noise hardly counts where a scene is still faint, and
        # nine tenths of what the wrong caption costs lie there.
        power = schedule.alphas_cumprod.to(device())[timesteps].clamp_min(FAINTEST)
        errors = (predicted.float() - noise).square().mean((1, 2, 3)) / power
        return errors.mean() - ALIGNMENT * alike

    fit(
        "unet",
        model,
        loss,
        steps=flags.steps,
        rate=flags.rate,
        preview=lambda path: _preview(pipeline(copy.deepcopy(model).float(), vae, vocabulary), path),
        preview_every=500,
    )
    tokenizer.build().save_pretrained(PIPELINE / "tokenizer")  # a fresh one: use leaves padding settings behind
    pipe = pipeline(model, vae, vocabulary)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)  # it needs 20 steps
    pipe.scheduler.save_pretrained(PIPELINE / "scheduler")
    save(model, vocabulary, torch.cat([said.flatten(), terse.flatten()]))
    pipe.save_config(PIPELINE)


if __name__ == "__main__":
    main()
