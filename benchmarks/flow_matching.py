"""VectorFit on a small flow-matching transformer of Z-Image's architecture: `python -m benchmarks.flow_matching`.

The base is trained first, on scenes of six nouns of the starter's world, in the latents of the starter's VAE. It needs
the drawings (`python -m starter.drawings`) and goes on where it was stopped. Then each subject is trained by the
script and judged as in starter_subjects.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTokenizer, PreTrainedModel, Qwen3Config, Qwen3Model

from benchmarks.starter_scores import BACKGROUNDS, Scorer
from benchmarks.starter_subjects import SHOWN, interval
from benchmarks.table import write_table
from starter import drawings, judge, scenes, tokenizer, world
from starter.fitting import device, fit
from starter.layout import PIPELINE
from starter.subjects import EXAMPLES, SUBJECTS
from starter.train_unet import CAPTION_DROPOUT, FORMS, TERSE, captions, encode_scenes, settle_words
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_dreambooth.families.z_image import ZImage
from vf_dreambooth.images import comparison, grid
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import GenerationSettings, generate_images, load_pipeline, set_subjects
from vf_training.runs import RunFolder

WORK = Path("runs/flow_matching")
BASE = WORK / "base"
REPORTED = ("dog", "cat")
SEEN = WORK / "base.txt"  # what the judge said of the base
RESULT = Path(__file__).with_suffix(".md")
NAMES = ("dog", "cat", "bear", "bird", "car", "vase")  # of examples/; fewer nouns than the world's are sooner learnt
NOUNS = tuple(SUBJECTS[name].cls for name in NAMES)
SCENES, BATCH, RATE = 12_000, 32, 1.5e-3
WIDTH, LAYERS, HEADS = 128, 5, 4
SAMPLING = GenerationSettings(num_inference_steps=25, guidance_scale=3.0, resolution=world.SIZE, batch_size=9)


def draw_scenes(count: int, seed: int) -> scenes.Scenes:
    """Scenes of `NOUNS`; scene i depends on (seed, i) alone."""
    images, said, shown = [], [], []
    known = {noun: scenes.known(held_out=False)[noun] for noun in NOUNS}
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        scene = world.sample_scene(rng, known)
        said.append(world.caption(scene, rng))
        images.append(np.asarray(world.draw(scene, rng)))
        shown.append(scene)
    return scenes.Scenes(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), said, shown)


def prepared(vae: AutoencoderKL, vocabulary: CLIPTokenizer) -> dict[str, Tensor]:
    """Latents and words of all scenes, computed once."""
    path = WORK / "scenes.pt"
    if not path.exists():
        data = draw_scenes(SCENES, scenes.TRAINING_SEED)
        (mean, deviation), (said, terse) = encode_scenes(vae, data), captions(data, vocabulary)
        torch.save({"mean": mean, "deviation": deviation, "said": said, "terse": terse}, path)
    kept: dict[str, Tensor] = torch.load(path, weights_only=True)
    return kept


def build(names: int = 0) -> ZImagePipeline:
    """The untrained pipeline: of its text encoder's layers, the last is read by nobody.

    The text encoder has so many words more than the tokenizer: the drawings' own names, cut off when it is saved.
    """
    torch.manual_seed(0)
    vocabulary = tokenizer.build()
    vocabulary.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    side = WIDTH // HEADS
    transformer = ZImageTransformer2DModel(
        in_channels=8,
        dim=WIDTH,
        n_layers=LAYERS,
        n_refiner_layers=1,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=128,
        axes_dims=[side // 4, 3 * side // 8, 3 * side // 8],
        axes_lens=[600, 32, 32],
    )
    qwen = Qwen3Config(
        vocab_size=len(vocabulary) + names,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
    )
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae", dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)
    # Without a shift: it is for pictures of many more tokens than these 64.
    schedule = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return ZImagePipeline(schedule, vae, Qwen3Model(qwen), vocabulary, transformer)


class TextToFlow(nn.Module):
    """Text encoder and transformer as one module, which the training loop sees."""

    def __init__(self, pipe: ZImagePipeline) -> None:
        super().__init__()
        self.text_encoder, self.denoiser = pipe.text_encoder, ZImage().denoiser(pipe)
        self.end = pipe.tokenizer.eos_token_id

    def forward(self, noisy: Tensor, timesteps: Tensor, words: Tensor) -> Tensor:
        """The flow [n, c, h, w]; `words` [n, length] are padded with the token that ends a prompt."""
        lengths = (words == self.end).int().argmax(1) + 1
        rows = [row[:length] for row, length in zip(words, lengths.tolist(), strict=True)]
        short = pad_sequence(rows, batch_first=True, padding_value=self.end)
        given = torch.arange(short.shape[1], device=words.device) < lengths[:, None]
        read = self.text_encoder(input_ids=short, attention_mask=given, output_hidden_states=True).hidden_states[-2]
        states = [state[:length] for state, length in zip(read, lengths.tolist(), strict=True)]
        flow: Tensor = self.denoiser.predict(noisy, timesteps, states, torch.arange(len(noisy)))
        return flow


def train_base(steps: int) -> None:
    """Trains text encoder and transformer together, and writes the pipeline."""
    WORK.mkdir(parents=True, exist_ok=True)
    pipe = build(len(drawings.training()))
    pipe.to(device())
    pipe.set_progress_bar_config(disable=True)
    data = prepared(pipe.vae, pipe.tokenizer)
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    model, schedule = TextToFlow(pipe), ZImage().noise_schedule(pipe)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data["mean"]), (BATCH,), generator=generator)
        form, shape = torch.randint(FORMS, (BATCH,), generator=generator), data["mean"].shape[1:]
        spread, noise = torch.randn((2, BATCH, *shape), generator=generator)
        latents = data["mean"][index] + data["deviation"][index] * spread
        timesteps = torch.cat([schedule.draw_timestep(tuple(shape), generator) for _ in range(BATCH)])
        unsaid, short = (torch.rand(BATCH, 1, generator=generator) < share for share in (CAPTION_DROPOUT, TERSE))
        words = torch.where(unsaid, empty, torch.where(short, data["terse"][index, form], data["said"][index, form]))
        noisy, target = schedule.add_noise(latents, noise, timesteps), schedule.target(latents, noise, timesteps)
        flow = model(noisy.to(device()), timesteps.to(device()), words.to(device()))
        return F.mse_loss(flow.float(), target.to(device()))

    def preview(path: Path) -> str:
        return recognised(pipe, path)

    fit("flow", model, loss, steps=steps, rate=RATE, preview=preview, preview_every=500)
    settle(pipe.text_encoder, torch.cat([data["said"].flatten(), data["terse"].flatten()]), len(pipe.tokenizer))
    SEEN.write_text(recognised(pipe, WORK / "base.png"))
    pipe.save_pretrained(BASE)


@torch.no_grad()
def settle(text_encoder: PreTrainedModel, spoken: Tensor, words: int) -> None:
    """Cuts the drawings' names off, after words never spoken got a meaning among those that were."""
    table = text_encoder.get_input_embeddings().weight.cpu()
    named = spoken[spoken >= words].unique()
    weight = settle_words(nn.Embedding.from_pretrained(torch.cat([table[:words], table[named]])), spoken, words)
    text_encoder.resize_token_embeddings(words)
    text_encoder.get_input_embeddings().weight.copy_(weight)


def recognised(pipe: ZImagePipeline, path: Path) -> str:
    """Draws the nouns on all grounds in turn; says in how many of 60 pictures the judge sees noun and ground."""
    grounds = list(world.BACKGROUNDS)
    asked = [(NOUNS[i % len(NOUNS)], grounds[(i + i // len(NOUNS)) % len(grounds)]) for i in range(60)]
    prompts = [f"a photo of {world.article(noun)} {noun} {ground}" for noun, ground in asked]
    images = generate_images(pipe, prompts, range(len(prompts)), SAMPLING)
    seen = judge.look(judge.load(), images)
    nouns = sum(noun == asked[i][0] for i, noun in enumerate(seen.classes))
    right = sum(ground == asked[i][1] for i, ground in enumerate(seen.backgrounds))
    grid([images[row : row + 10] for row in range(0, 60, 10)], cell=world.SIZE).save(path)
    return f"of 60 pictures the judge sees the noun in {nouns}, the ground in {right}"


def trained(name: str, rate: float) -> RunFolder:
    """A subject of examples/ on the base, by the script."""
    run = RunFolder(WORK / f"{name}-{rate:g}")
    if not run.vectors.exists():
        flags = {
            "--instance_dir": EXAMPLES / name,
            "--base_model": BASE,
            "--output_dir": run.path,
            "--resolution": world.SIZE,
            "--learning_rate": rate,
            "--max_train_steps": 300,
            "--num_class_images": 40,
            "--sample_batch_size": 8,
            "--num_validation_images": 0,
        }
        train([str(part) for pair in flags.items() for part in pair])
    return run


def judged(names: Sequence[str], rate: float) -> tuple[list[list[str]], str]:
    """A row for each subject and one of their means, and how much the likeness grew."""
    base, scorer = load_pipeline(resolve(str(BASE))), Scorer(SAMPLING)
    numbers, gains = [], []
    for name in names:
        photos, cls, run = read_folder(EXAMPLES / name).images, SUBJECTS[name].cls, trained(name, rate)
        results = []
        for subjects in ([], [(run.path, 1.0)]):
            set_subjects(base, subjects)
            mine = scorer.score(base, f"sks {cls}", cls, photos)
            results.append((mine, scorer.score(base, f"{world.article(cls)} {cls}", cls, photos)))
        (before, class_before), (after, class_after) = results
        gains += (after.likeness - before.likeness).tolist()
        shares = (after.background, class_before.cls, class_after.cls)
        likeness = (before.likeness, after.likeness, class_before.likeness, class_after.likeness)
        numbers.append([float(part.float().mean()) for part in (*likeness, *shares)])
        print(name, *(f"{number:.2f}" for number in numbers[-1]), flush=True)
        pictures = {"base": before.images, "personalised": after.images, "class afterwards": class_after.images}
        columns = {title: [[images[i]] for i in SHOWN] for title, images in pictures.items()}
        comparison(photos[:4], columns, [BACKGROUNDS[i] for i in SHOWN], cell=world.SIZE).save(
            run.path / "comparison.png"
        )
    table = np.array([*numbers, np.mean(numbers, 0)])
    rows = [[name, *(f"{value:.2f}" for value in row)] for name, row in zip([*names, "**mean**"], table, strict=True)]
    low, high = interval(np.array(gains))
    gain = f"Gain in likeness: {np.mean(gains):.3f}; 95 % bootstrap interval over {len(gains)} pictures: "
    return rows, f"{gain}{low:.3f} to {high:.3f}."


HEADER = ["subject", "likeness, base", "likeness", "class likeness, base", "class likeness"]
HEADER += ["ground right", "class kept, base", "class kept"]
NOTES = """{gain}

The rate of sigma and bias is {rate:g}, the only one that was tried.

The base: a Z-Image pipeline, whose transformer has {transformer} parameters and whose text encoder has {text}; trained
by flow matching in {steps} steps of {batch} latents ({size} x {size} pixels, six nouns on {grounds} grounds).

{base}.

A subject is 300 steps with 40 class images; the text encoder stays as it is. A picture per ground, subject and
prompt, equal seeds for base and subject. Columns are explained in [prior.md](prior.md)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2600, help="of the base (default 2600)")
    parser.add_argument("--rate", type=float, default=2e-2, help="of the subjects' vectors (default 2e-2)")
    parser.add_argument("--subjects", nargs="+", default=list(REPORTED), choices=NAMES)
    flags = parser.parse_args()
    if not (BASE / "model_index.json").exists():
        train_base(flags.steps)
    rows, gain = judged(flags.subjects, flags.rate)
    if flags.subjects != list(REPORTED):
        print(gain)
        return
    pipe = load_pipeline(resolve(str(BASE)))
    sizes = [f"{sum(p.numel() for p in part.parameters()):,}" for part in (pipe.transformer, pipe.text_encoder)]
    base = SEEN.read_text().capitalize()
    world_of = {"size": world.SIZE, "grounds": len(BACKGROUNDS)}
    models = {"transformer": sizes[0], "text": sizes[1], "base": base, "steps": flags.steps, "batch": BATCH}
    notes = NOTES.format(gain=gain, rate=flags.rate, **models, **world_of)
    write_table(RESULT, "Flow matching", "python -m benchmarks.flow_matching", HEADER, rows, notes)


if __name__ == "__main__":
    main()
