"""Subjects that training never saw, each photographed five times: `python -m starter.subjects` draws `examples/`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import drawings, world
from .drawings import Drawing

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHOTS = 5


@dataclass(frozen=True)
class Subject:
    """A subject: a held-out drawing, as it is or with a pattern of one colour laid over it."""

    drawing: Drawing
    pattern: tuple[str, str] | None = None  # kind, colour

    @property
    def cls(self) -> str:
        return self.drawing.noun

    def picture(self) -> Image.Image:
        picture = drawings.held_out()[self.drawing]
        if self.pattern is None:
            return picture
        kind, color = self.pattern
        return world.pattern(picture, kind, world.COLORS[color])


def _subject(noun: str, style: str, name: str, pattern: tuple[str, str] | None = None) -> Subject:
    return Subject(Drawing(noun, style, name), pattern)


# Held-out drawings whose photos the judge names right: of others a likeness tells nothing. Chosen by the photos alone,
# before anything was trained on them. The judge names 71 % of all held-out drawings' photos.
SUBJECTS = {
    "dog": _subject("dog", "noto", "guide-dog"),
    "cat": _subject("cat", "fluent-emoji", "grinning-cat"),
    "bear": _subject("bear", "fluent-emoji-flat", "panda"),
    "bird": _subject("bird", "noto", "front-facing-baby-chick"),
    "fox": _subject("fox", "noto-v1", "fox"),
    "dragon": _subject("dragon", "fluent-emoji", "dragon-face"),
    "car": _subject("car", "twemoji", "automobile"),
    "boot": _subject("boot", "emojione", "womans-boot"),
    "clock": _subject("clock", "fluent-emoji", "mantelpiece-clock"),
    "guitar": _subject("guitar", "fluent-emoji", "banjo"),
    "dress": _subject("dress", "fluent-emoji-flat", "kimono"),
    "vase": _subject("vase", "fluent-emoji-flat", "funeral-urn", ("dotted", "blue")),
}
# Settings are tuned on these and reported on the others.
TUNING_SUBJECTS = {
    "rabbit": _subject("rabbit", "fluent-emoji", "rabbit-face"),
    "turtle": _subject("turtle", "fxemoji", "turtle"),
    "camera": _subject("camera", "noto", "camera", ("striped", "yellow")),
    "umbrella": _subject("umbrella", "fluent-emoji-flat", "umbrella-with-rain-drops"),
}


def shots(name: str, subject: Subject) -> list[tuple[str, Image.Image]]:
    """Five pictures of a subject, each with the ground that it stands on."""
    rng = np.random.default_rng(list(name.encode()))
    grounds = [str(ground) for ground in rng.permutation(list(world.BACKGROUNDS))[:SHOTS]]
    thing = world.Thing(subject.drawing)
    return [(ground, world.draw(world.Scene(thing, ground), rng, subject.picture())) for ground in grounds]


def photographs(name: str, subject: Subject) -> list[Image.Image]:
    """Five pictures of a subject, each on another ground."""
    return [photo for _, photo in shots(name, subject)]


def write(folder: Path, subjects: dict[str, Subject]) -> None:
    for name, subject in subjects.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(photographs(name, subject)):
            image.save(folder / name / f"{index:02d}.png")


if __name__ == "__main__":
    write(EXAMPLES, SUBJECTS)
