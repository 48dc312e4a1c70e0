"""What a person asks the page to draw, checked, drawn by an engine and written as pictures that tell their settings."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from vectorfit import VectorFitError
from vf_dreambooth.base_models import BaseModel
from vf_dreambooth.engine import OWN_SCHEDULER, GenerationRequest
from vf_dreambooth.images import grid, write_png
from vf_dreambooth.pipeline import GeneratedImage, GenerationSettings

from .subjects import Library, Subject

MOST_PICTURES, MOST_CELLS = 16, 64
LONGEST = 2000  # characters of a prompt; the text encoder reads 77 tokens
SIZES = (64, 1024)
KEPT = 3600  # seconds that files stay on the disk at least; whoever wants them longer has downloaded them
BLANKED = "{} of {} pictures were blanked by the base model's safety checker; other words or another seed may help."


class Stopped(Exception):
    """Whoever asked has changed their mind."""


class Draws(Protocol):
    """What draws orders: `vf_dreambooth.engine.Engine`, or a test's stand-in."""

    def generate(self, order: GenerationRequest, told: Callable[[int], None]) -> list[GeneratedImage]: ...

    def release(self) -> None: ...


class Progress(Protocol):
    """Is told after every denoising step: how many of how many, and what is being drawn."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


@dataclass(frozen=True)
class Wish:
    """One request: subjects by name with their strengths (none: the base alone), words, and how to sample."""

    subjects: tuple[tuple[str, float], ...]
    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    count: int = 1
    steps: int = 25
    guidance: float = 4.0
    size: int = 64
    sampler: str = OWN_SCHEDULER

    def check(self) -> None:
        """Raises VectorFitError naming everything that cannot be."""
        within = {
            "count": (self.count, 1, MOST_PICTURES),
            "steps": (self.steps, 1, 200),
            "guidance": (self.guidance, 0, 30),
            "size": (self.size, *SIZES),
            "seed": (self.seed, 0, 2**32 - self.count),
            "characters of the prompt": (len(self.prompt), 0, LONGEST),
            "characters of the negative prompt": (len(self.negative_prompt), 0, LONGEST),
            **{f"strength of {name}": (strength, 0, 2) for name, strength in self.subjects},
        }
        wrong = [
            f"{n}: got {v}, expected {low} to {high}" for n, (v, low, high) in within.items() if not low <= v <= high
        ]
        wrong += [f"size: got {self.size}, expected a multiple of 64"] if self.size % 64 else []
        wrong += ["prompt: empty, expected some words"] if not self.prompt.strip() else []
        names = [name for name, _ in self.subjects]
        wrong += ["the second subject is the first again; choose another"] if len(set(names)) < len(names) else []
        if wrong:
            raise VectorFitError("\n".join(wrong))


@dataclass(frozen=True)
class Picture:
    """A picture that was written, and what it was made from."""

    path: Path
    parameters: dict


@dataclass(frozen=True)
class Outcome:
    """What came of a wish: the personalised pictures, the base's at the same seeds, and what to know of them."""

    own: list[Picture]
    base: list[Picture]
    notes: list[str]


class Studio:
    """Grants wishes with the subjects of a library. Nothing of one wish is left for the next but files."""

    def __init__(self, library: Library, engine: Draws, default_base: BaseModel, scratch: Path) -> None:
        self.library, self.engine, self.default_base, self.scratch = library, engine, default_base, scratch

    def sampling(self, name: str | None) -> GenerationSettings:
        """How the base of a subject is sampled by default."""
        return GenerationSettings.of((self._base([self.library.find(name)]) if name else self.default_base).preset)

    def _base(self, subjects: Sequence[Subject]) -> BaseModel:
        """The base that subjects share. Raises VectorFitError where they do not."""
        bases = [self.library.base_of(subject) for subject in subjects] or [self.default_base]
        if any(base != bases[0] for base in bases):
            told = " and ".join(f"{s.name} of {b.name}" for s, b in zip(subjects, bases, strict=True))
            raise VectorFitError(f"{told}: subjects of different base models do not mix; choose two of one")
        return bases[0]

    def _order(self, wish: Wish) -> GenerationRequest:
        wish.check()
        subjects = [self.library.find(name) for name, _ in wish.subjects]
        base = self._base(subjects)
        sampling = replace(
            GenerationSettings.of(base.preset),
            num_inference_steps=wish.steps,
            guidance_scale=wish.guidance,
            resolution=wish.size,
            negative_prompt=wish.negative_prompt,
        )
        strengths = [strength for _, strength in wish.subjects]
        seeds = tuple(wish.seed + index for index in range(wish.count))
        loaded = tuple((subject.path, strength) for subject, strength in zip(subjects, strengths, strict=True))
        return GenerationRequest(base, loaded, (wish.prompt,) * wish.count, seeds, sampling, wish.sampler)

    def draw(self, wish: Wish, compare: bool, progress: Progress, stop: threading.Event) -> Outcome:
        """The wish's pictures; with `compare` those of the base at the same seeds too.

        Raises:
            VectorFitError: something of the wish cannot be.
            Stopped: `stop` was set.
        """
        own = self._order(wish)
        plain = replace(own, subjects=())
        orders = [(plain, "base")] if compare and own.subjects else []
        drawn = self._draw([*orders, (own, wish.subjects[0][0] if wish.subjects else "base")], progress, stop)
        folder = self.folder()
        mine = self._write(folder, wish, own, drawn[-1])
        base = self._write(folder, replace(wish, subjects=()), plain, drawn[0]) if len(drawn) > 1 else []
        return Outcome(mine, base, _notes([one for found in drawn for one in found]))

    def sweep(self, wish: Wish, strengths: Sequence[float], progress: Progress, stop: threading.Event) -> Outcome:
        """One picture of the first subject at several strengths: a row per seed, a column per strength."""
        if not wish.subjects:
            raise VectorFitError("a sweep of strengths needs a subject; choose one")
        name, rest = wish.subjects[0][0], wish.subjects[1:]
        wishes = [replace(wish, subjects=((name, strength), *rest)) for strength in strengths]
        columns = [f"{strength:g}" for strength in strengths]
        return self._sheet(wishes, columns, [f"seed {wish.seed + i}" for i in range(wish.count)], progress, stop)

    def table(
        self, wish: Wish, names: Sequence[str], prompts: Sequence[str], progress: Progress, stop: threading.Event
    ) -> Outcome:
        """One picture of prompts x subjects, all at one seed, each subject sampled as suits its base.

        {} in a prompt stands for each subject's own words.
        """
        if not names or not prompts:
            raise VectorFitError(f"got {len(names)} subjects and {len(prompts)} prompts; expected at least one of each")
        wishes = []
        for name in names:
            subject, sampling = self.library.find(name), self.sampling(name)
            suited = replace(
                wish,
                subjects=((name, 1.0),),
                count=1,
                steps=sampling.num_inference_steps,
                guidance=sampling.guidance_scale,
                size=sampling.resolution,
            )
            wishes += [replace(suited, prompt=prompt.replace("{}", subject.trigger)) for prompt in prompts]
        return self._sheet(wishes, list(names), list(prompts), progress, stop)

    def _sheet(
        self,
        wishes: Sequence[Wish],
        columns: list[str],
        rows: list[str],
        progress: Progress,
        stop: threading.Event,
    ) -> Outcome:
        """Draws the wishes, which go down the columns, and lays them out as one picture."""
        cells = sum(wish.count for wish in wishes)
        if cells > MOST_CELLS:
            raise VectorFitError(f"{cells} pictures; expected at most {MOST_CELLS} on one sheet")
        orders = [(self._order(wish), wish.subjects[0][0]) for wish in wishes]
        found = [one for drawn in self._draw(orders, progress, stop) for one in drawn]
        columns_of = [[one.image for one in found[i * len(rows) : (i + 1) * len(rows)]] for i in range(len(columns))]
        cell = min(256, max(128, wishes[0].size))
        lines = [list(row) for row in zip(*columns_of, strict=True)]
        sheet = grid(lines, row_titles=rows, column_titles=columns, cell=cell)
        bases = sorted({order.base.name for order, _ in orders})
        parameters = {"columns": columns, "rows": rows, "seed": wishes[0].seed, "base_model": ", ".join(bases)}
        path = self.folder() / "sheet.png"
        write_png(path, sheet, parameters)
        return Outcome([Picture(path, parameters)], [], _notes(found))

    def _draw(
        self, orders: Sequence[tuple[GenerationRequest, str]], progress: Progress, stop: threading.Event
    ) -> list[list[GeneratedImage]]:
        total, before, found = sum(order.steps for order, _ in orders), 0, []
        for order, what in orders:

            def told(done: int, before: int = before, most: int = order.steps, what: str = what) -> None:
                if stop.is_set():
                    raise Stopped
                progress(before + min(done, most), total, what)  # PNDM takes a step more than it is asked for

            found.append(self.engine.generate(order, told))
            before += order.steps
        return found

    def folder(self) -> Path:
        """A new folder for files that a person is shown or given."""
        folder = self.scratch / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def sweep_old(self) -> None:
        """Removes what was made long ago."""
        for old in self.scratch.glob("*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > KEPT:
                    shutil.rmtree(old, ignore_errors=True)

    def _write(
        self, folder: Path, wish: Wish, order: GenerationRequest, drawn: Sequence[GeneratedImage]
    ) -> list[Picture]:
        found = []
        name = wish.subjects[0][0].rpartition("/")[2] if wish.subjects else "base"
        for seed, one in zip(order.seeds, drawn, strict=True):
            parameters = _parameters(wish, order) | {"seed": seed}
            path = folder / f"{name}-{seed}.png"
            write_png(path, one.image, parameters)
            found.append(Picture(path, parameters))
        return found


def _parameters(wish: Wish, order: GenerationRequest) -> dict:
    """What a picture tells of how it was made."""
    return {
        "prompt": wish.prompt,
        "negative_prompt": wish.negative_prompt,
        "subjects": [{"name": name, "strength": strength} for name, strength in wish.subjects],
        "base_model": order.base.name,
        "seed": wish.seed,
        "num_inference_steps": wish.steps,
        "guidance_scale": wish.guidance,
        "resolution": wish.size,
        "sampler": wish.sampler,
    }


def _notes(drawn: Sequence[GeneratedImage]) -> list[str]:
    blanked = sum(one.blanked for one in drawn)
    return [BLANKED.format(blanked, len(drawn))] if blanked else []


def strengths_between(low: float, high: float, count: int) -> list[float]:
    """So many strengths at equal distances. Raises VectorFitError for a range that is none."""
    if not (0 <= low < high <= 2 and 2 <= count <= MOST_PICTURES):
        raise VectorFitError(f"strengths {low} to {high} in {count} steps; expected 0 to 2 in 2 to {MOST_PICTURES}")
    return [round(low + (high - low) * index / (count - 1), 3) for index in range(count)]
