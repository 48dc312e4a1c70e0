"""What the starter's judge says of a subject's pictures; shared by the benchmarks beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from eval.collection import Subject
from starter import judge, world
from vf_dreambooth.photos import open_photo
from vf_dreambooth.pipeline import GenerationSettings, generate_images
from vf_dreambooth.presets import Preset

BACKGROUNDS = list(world.BACKGROUNDS)
AT_ONCE = 9  # pictures drawn at once, half of the grounds


@dataclass(frozen=True)
class Scores:
    """Per picture: likeness to the references, whether the ground asked for and the noun are recognised."""

    likeness: Tensor  # mean cosine with the references' embeddings [n]
    background: Tensor  # bool [n]
    cls: Tensor  # bool [n]
    images: list[Image.Image]


class Scorer:
    """Samples prompts over all grounds, each at its own seed, and asks the judge."""

    def __init__(self, sampling: GenerationSettings) -> None:
        self.judge, self.sampling = judge.load(), sampling

    @classmethod
    def of(cls, preset: Preset) -> "Scorer":
        return cls(GenerationSettings.of(preset, AT_ONCE))

    def embed(self, images: list[Image.Image]) -> Tensor:
        return judge.look(self.judge, images).embeddings

    def named(self, images: list[Image.Image], cls: str) -> float:
        """The share of pictures in which the noun is recognised."""
        return fmean(got == cls for got in judge.look(self.judge, images).classes)

    def score(self, pipe: DiffusionPipeline, phrase: str, cls: str, references: list[Image.Image]) -> Scores:
        """One picture of "a photo of {phrase} {ground}" per ground; picture i has seed i."""
        prompts = [f"a photo of {phrase} {background}" for background in BACKGROUNDS]
        images = generate_images(pipe, prompts, range(len(prompts)), self.sampling)
        seen = judge.look(self.judge, images)
        return Scores(
            (seen.embeddings @ self.embed(references).T).mean(1),
            torch.tensor([got == asked for got, asked in zip(seen.backgrounds, BACKGROUNDS, strict=True)]),
            torch.tensor([got == cls for got in seen.classes]),
            images,
        )


def recognised(critic: judge.Judge, subject: Subject) -> dict[str, float]:
    """What the judge recognises in an evaluation's pictures, as shares of them.

    "noun" and "ground" of the subject's, "class" the noun of the class's; the same of the base's pictures as "base
    noun" and "base ground", and of the photos as "photos noun". Grounds count where the prompt ends with one.
    """
    seen = judge.look(critic, [open_photo(path) for path, _ in subject.pictures])
    found: dict[str, list[bool]] = {}
    names = {"subject": ("noun", "ground"), "class": ("class", ""), "base_class": ("base noun", "base ground")}
    for (_, entry), noun, ground in zip(subject.pictures, seen.classes, seen.backgrounds, strict=True):
        of_noun, of_ground = names[entry.role]
        found.setdefault(of_noun, []).append(noun == entry.cls)
        asked = next((words for words in BACKGROUNDS if entry.prompt.endswith(words)), None)
        if of_ground and asked is not None:
            found.setdefault(of_ground, []).append(ground == asked)
    cls = subject.pictures[0][1].cls
    photos = judge.look(critic, [open_photo(path) for path in subject.references]).classes
    return {**{name: fmean(values) for name, values in found.items()}, "photos noun": fmean(p == cls for p in photos)}


def means_of(subjects: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The means over subjects of what is recognised."""
    names = dict.fromkeys(name for found in subjects.values() for name in found)
    return {name: fmean(found[name] for found in subjects.values()) for name in names}
