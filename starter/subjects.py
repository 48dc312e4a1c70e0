"""Subjects that training never saw, each photographed five times: `python -m starter.subjects` draws `examples/`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import glyphs, world

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHOTS = 5


@dataclass(frozen=True)
class Subject:
    """A subject: its class, the glyph it is drawn with, and, where the glyph is known to training, its own pattern."""

    cls: str
    glyph: str
    pattern: tuple[str, str] | None = None  # kind, colour

    def picture(self) -> Image.Image:
        picture = glyphs.glyph(self.glyph)
        if self.pattern is None:
            return picture
        kind, color = self.pattern
        return world.pattern(picture, kind, world.COLORS[color])


SUBJECTS = {
    "dog": Subject("dog", "poodle"),
    "cat": Subject("cat", "black_cat"),
    "bear": Subject("bear", "panda"),
    "bird": Subject("bird", "parrot"),
    "fish": Subject("fish", "angelfish"),
    "car": Subject("car", "jeep"),
    "boot": Subject("boot", "tall_boot"),
    "clock": Subject("clock", "mantel_clock"),
    "backpack": Subject("backpack", "backpack/0", ("dots", "yellow")),
    "teapot": Subject("teapot", "teapot/0", ("stripes", "blue")),
}
# Settings are tuned on these and reported on the others.
TUNING_SUBJECTS = {"horse": Subject("horse", "unicorn"), "hat": Subject("hat", "sun_hat")}


def photographs(name: str, subject: Subject) -> list[Image.Image]:
    """Five pictures of a subject, each on another ground."""
    rng = np.random.default_rng(list(name.encode()))
    grounds = rng.permutation(list(world.BACKGROUNDS))[:SHOTS]
    scenes = [world.Scene(subject.cls, subject.glyph, str(ground)) for ground in grounds]
    return [world.draw(scene, rng, subject.picture()) for scene in scenes]


def write(folder: Path, subjects: dict[str, Subject]) -> None:
    for name, subject in subjects.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(photographs(name, subject)):
            image.save(folder / name / f"{index:02d}.png")


if __name__ == "__main__":
    write(EXAMPLES, SUBJECTS)
