"""Scores of a subject's pictures by the starter's judge; shared by the two benchmarks beside it."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from starter import judge, world
from vf_dreambooth.pipeline import GenerationSettings, generate_images

BACKGROUNDS = list(world.BACKGROUNDS)


@dataclass(frozen=True)
class Scores:
    """Per picture: likeness to the references, whether the background asked for and the class are recognised."""

    likeness: Tensor  # mean cosine with the references' embeddings [n]
    background: Tensor  # bool [n]
    cls: Tensor  # bool [n]
    images: list[Image.Image]


class Scorer:
    """Samples prompts over all backgrounds, each at its own seed, and asks the judge."""

    def __init__(self, sampling: GenerationSettings) -> None:
        self.judge, self.sampling = judge.load(), sampling

    def embed(self, images: list[Image.Image]) -> Tensor:
        return judge.look(self.judge, images).embeddings

    def score(self, pipe: DiffusionPipeline, phrase: str, cls: str, references: list[Image.Image]) -> Scores:
        """One picture of "a photo of {phrase} {background}" per background; picture i has seed i."""
        prompts = [f"a photo of {phrase} {background}" for background in BACKGROUNDS]
        images = generate_images(pipe, prompts, range(len(prompts)), self.sampling)
        seen = judge.look(self.judge, images)
        return Scores(
            (seen.embeddings @ self.embed(references).T).mean(1),
            torch.tensor([got == asked for got, asked in zip(seen.backgrounds, BACKGROUNDS, strict=True)]),
            torch.tensor([got == cls for got in seen.classes]),
            images,
        )
