"""Captions: the prompt that each sample of a training has, and how captions are written down."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vectorfit import VectorFitError

from .config import TrainConfig
from .randomness import generator, stacked_integers, stacked_uniform

SHUFFLES = 8  # orders of a shuffled caption's parts; every one is a prompt to encode, so their number is bounded


def read_lines(path: Path, comment: str | None = None) -> list[str]:
    """The lines of a text file with something in them, spaces made single, without those that start with `comment`.

    Raises:
        VectorFitError: it is not a readable UTF-8 text, or it is empty.
    """
    try:
        lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise VectorFitError(f"{path}: not a readable UTF-8 text ({error}); repair or remove it") from error
    lines = [line for line in lines if line and not (comment and line.startswith(comment))]
    if not lines:
        raise VectorFitError(f"{path}: no words in it, expected a prompt; write one or remove the file")
    return lines


def filled(text: str, config: TrainConfig) -> str:
    """A prompt with {token} and {class} replaced by the subject's words.

    Raises:
        VectorFitError: another word in braces, or no noun is known for {class}.
    """
    values = {"token": config.token, "class": config.class_noun}
    for name in re.findall(r"{(\w*)}", text):
        if name not in values:
            near = difflib.get_close_matches(name, values, 1)
            hint = f"did you mean {{{near[0]}}}?" if near else "expected {token} or {class}"
            raise VectorFitError(f"{text!r}: unknown placeholder {{{name}}}; {hint}")
        if values[name] is None:
            raise VectorFitError(f"{text!r}: {{{name}}} has no word; give --class_noun")
    return re.sub(r"{(token|class)}", lambda found: str(values[found[1]]), text)


def photo_captions(captions: Sequence[str | None], names: Sequence[str], config: TrainConfig) -> list[str | None]:
    """The photos' own prompts with their placeholders filled in.

    Raises:
        VectorFitError: as `filled`, a line per photo.
    """
    results, problems = [], []
    for caption, name in zip(captions, names, strict=True):
        try:
            results.append(caption and filled(caption, config))
        except VectorFitError as error:
            problems.append(f"{Path(name).with_suffix('.txt')}: {error}")
    if problems:
        raise VectorFitError("\n".join(problems))
    return results


def shuffled(caption: str, seed: int, photo: int) -> list[str]:
    """`SHUFFLES` orders of a caption's parts between commas. The first part stays in front: it names the subject."""
    first, *parts = [part.strip() for part in caption.split(",") if part.strip()]
    if len(parts) < 2:
        return [caption] * SHUFFLES
    orders = [torch.randperm(len(parts), generator=generator(seed, "caption order", photo, n)) for n in range(SHUFFLES)]
    return [", ".join([first, *(parts[i] for i in order.tolist())]) for order in orders]


class Captions:
    """The distinct prompts of a training, and which of them each sample has."""

    def __init__(self, config: TrainConfig, captions: Sequence[str | None], *, with_class: bool) -> None:
        self._seed, self._dropout = config.seed, config.caption_dropout
        own = [caption or str(config.instance_prompt) for caption in captions]
        per_photo = [
            shuffled(caption, config.seed, photo) if config.shuffle_captions else [caption]
            for photo, caption in enumerate(own)
        ]
        last = ([str(config.class_prompt)] if with_class else []) + ([""] if config.caption_dropout else [])
        self.prompts = list(dict.fromkeys([prompt for variants in per_photo for prompt in variants] + last))
        number = {prompt: index for index, prompt in enumerate(self.prompts)}
        self._of_photo = torch.tensor([[number[prompt] for prompt in variants] for variants in per_photo])
        self._of_class, self._empty = number.get(str(config.class_prompt), 0), number.get("", 0)

    def index(self, picture: Tensor, is_class: Tensor, step: int, first: int) -> Tensor:
        """Which of the prompts each sample of a batch has [n].

        `first` is the place of the batch's first photo in the global batch of `step`. Shapes: `picture` and `is_class`
        [n], the photos before the class images.
        """
        places = range(first, first + int((~is_class).sum()))
        variants = self._of_photo.shape[1]
        variant = stacked_integers(variants, self._seed, "caption variant", step, places) if variants > 1 else 0
        chosen = self._of_photo[picture[~is_class], variant]
        if self._dropout:
            chance = stacked_uniform(self._seed, "caption dropout", step, places)
            chosen = torch.where(chance < self._dropout, self._empty, chosen)
        return torch.cat([chosen, torch.full((int(is_class.sum()),), self._of_class)])
