"""The prompts of the sample grids, each with settings of its own if it wants them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from vectorfit import VectorFitError

from .captions import filled, read_lines
from .config import TrainConfig
from .pipeline import GenerationSettings
from .prompts import preview_prompts

MOST = 64  # every prompt is a row of a grid
# What may follow a prompt in a file, as in kohya's sd-scripts: the letter, its field and its type.
OPTIONS = {"n": ("negative_prompt", str), "d": ("seed", int), "l": ("guidance_scale", float), "s": ("steps", int)}


@dataclass(frozen=True)
class Preview:
    """A row of a sample grid; None means as in all other rows. The next pictures of a row have the next seeds."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    guidance_scale: float | None = None
    steps: int | None = None

    def settings(self, usual: GenerationSettings) -> GenerationSettings:
        return replace(
            usual,
            negative_prompt=self.negative_prompt,
            guidance_scale=usual.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            num_inference_steps=self.steps or usual.num_inference_steps,
        )


def parsed(line: str) -> Preview:
    """A line of a prompt file: "PROMPT --n NEGATIVE --d SEED --l GUIDANCE --s STEPS", all but the prompt optional.

    Raises:
        VectorFitError: an unknown option, or a value of the wrong kind.
    """
    prompt, *options = re.split(r"\s--(\w+)", line)
    given: dict[str, object] = {}
    for letter, text in zip(options[::2], options[1::2], strict=True):
        if letter not in OPTIONS:
            raise VectorFitError(f"{line!r}: unknown option --{letter}; expected --{', --'.join(OPTIONS)}")
        name, kind = OPTIONS[letter]
        try:
            given[name] = kind(text.strip())
        except ValueError as error:
            raise VectorFitError(f"{line!r}: --{letter} got {text.strip()!r}, expected a number") from error
        if kind is not str and (given[name] < (letter == "s") or given[name] != given[name]):  # type: ignore[operator]
            raise VectorFitError(f"{line!r}: --{letter} got {text.strip()}, expected at least {int(letter == 's')}")
    return Preview(prompt, **given)  # type: ignore[arg-type]


def previews(config: TrainConfig) -> list[Preview]:
    """The rows of the sample grids: those of `--validation_prompts` or the usual four, and `--validation_prompt`.

    Raises:
        VectorFitError: the file cannot be read, is empty or too long, or has a wrong placeholder or option.
    """
    rows = [Preview(prompt) for prompt in preview_prompts(str(config.instance_prompt), str(config.class_prompt))]
    if config.validation_prompts:
        try:
            lines = read_lines(Path(config.validation_prompts), comment="#")
            if len(lines) > MOST:
                raise VectorFitError(f"{config.validation_prompts}: {len(lines)} prompts, expected at most {MOST}")
            rows = [parsed(filled(line, config)) for line in lines]
        except VectorFitError as error:
            raise VectorFitError(f"--validation_prompts: {error}") from error
    return rows + ([Preview(config.validation_prompt)] if config.validation_prompt else [])
