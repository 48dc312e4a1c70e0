"""What is to be scored: generated and real pictures by subject, all checked before anything is measured."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from vectorfit import VectorFitError
from vf_dreambooth.photos import open_photo, photo_paths
from vf_dreambooth.problems import Problems

from . import manifest
from .manifest import Entry

BLACK = 2  # the brightest pixel of what a safety checker has blanked


@dataclass(frozen=True)
class Subject:
    """A subject's real pictures, and what was generated of it: (file, what it answers)."""

    name: str
    references: list[Path]
    pictures: list[tuple[Path, Entry]]
    missing: list[str] = field(default_factory=list)  # pictures left out with --allow_missing, and why


def _folders(generated: Path) -> list[Path]:
    """A folder of pictures, or its sub-folders that are such, one per subject."""
    if not generated.is_dir():
        raise VectorFitError(f"--generated {generated}: no such folder; expected generated pictures")
    if (generated / manifest.NAME).exists() or photo_paths(generated):
        return [generated]
    found = [f for f in sorted(generated.iterdir()) if f.is_dir() and ((f / manifest.NAME).exists() or photo_paths(f))]
    if not found:
        raise VectorFitError(
            f"--generated {generated}: 0 pictures there and in its folders; expected PNG, JPEG or WebP"
        )
    return found


def read_prompts(path: Path) -> dict[str, str]:
    """Prompts by file name: a JSON object, or lines of a name, a tab and a prompt.

    Raises:
        VectorFitError: it cannot be read, or a line has no tab.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VectorFitError(f"--prompts {path}: cannot be read ({error})") from error
    if path.suffix == ".json":
        try:
            return {str(name): str(prompt) for name, prompt in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise VectorFitError(f"--prompts {path}: not a JSON object of file names and prompts ({error})") from error
    lines = [line for line in text.splitlines() if line.strip()]
    broken = [number for number, line in enumerate(lines, start=1) if "\t" not in line]
    if broken:
        raise VectorFitError(
            f"--prompts {path}: {len(broken)} of {len(lines)} lines have no tab, the first is line {broken[0]}; "
            "expected 'file name, tab, prompt'"
        )
    return {name.strip(): prompt.strip() for name, prompt in (line.split("\t", 1) for line in lines)}


def _entries(folder: Path, prompts: dict[str, str] | None) -> list[tuple[Path, Entry]]:
    if (folder / manifest.NAME).exists():
        return [(folder / entry.file, entry) for entry in manifest.read(folder)]
    paths = photo_paths(folder)
    if prompts is not None:
        absent = [path.name for path in paths if path.name not in prompts]
        if absent:
            raise VectorFitError(
                f"{folder}: {len(absent)} of {len(paths)} pictures have no prompt in --prompts, such as {absent[0]}; "
                "add them, or score without prompts"
            )
    numbers = {text: number for number, text in enumerate(dict.fromkeys((prompts or {}).values()), start=1)}
    found = []
    for seed, path in enumerate(paths):
        text = (prompts or {}).get(path.name, "")
        entry = Entry(path.name, folder.name, "", "subject", numbers.get(text, 0), "", text, text, seed, "")
        found.append((path, entry))
    return found


def _references(reference: Path, subject: str) -> list[Path]:
    for folder in (reference / subject, reference):
        if folder.is_dir() and photo_paths(folder):
            return photo_paths(folder)
    raise VectorFitError(
        f"--reference {reference}: 0 real pictures of {subject}, there or in {subject}/; expected photos"
    )


def _blank(path: Path) -> bool:
    return max(high for _, high in open_photo(path).getextrema()) <= BLACK


def _check(paths: list[Path], *, allow_missing: bool) -> dict[Path, str]:
    """Pictures that cannot be scored, and why. Raises VectorFitError with all of them unless they may be missing."""
    lacking: dict[Path, str] = {}
    for path in paths:
        try:
            if not path.exists():
                lacking[path] = "missing"
            elif _blank(path):
                lacking[path] = "black, as a safety checker leaves it"
        except VectorFitError as error:
            lacking[path] = str(error).removeprefix(f"{path}: ")
    if lacking and not allow_missing:
        shown = "\n".join(f"  {path}: {why}" for path, why in list(lacking.items())[:10])
        more = f"\n  and {len(lacking) - 10} more" if len(lacking) > 10 else ""
        raise VectorFitError(
            f"{len(lacking)} of {len(paths)} generated pictures cannot be scored; generate them again, or leave them "
            f"out with --allow_missing:\n{shown}{more}"
        )
    return lacking


def gather(
    generated: list[Path], reference: Path, prompts: Path | None = None, *, allow_missing: bool = False
) -> list[Subject]:
    """The subjects of one or more folders of generated pictures, with their real pictures, in the order of their names.

    Raises:
        VectorFitError: folders without pictures, pictures without prompts, unreadable or black ones, all with counts.
    """
    texts = read_prompts(prompts) if prompts else None
    by_subject: dict[str, list[tuple[Path, Entry]]] = {}
    for folder in [folder for place in generated for folder in _folders(place)]:
        for path, entry in _entries(folder, texts):
            by_subject.setdefault(entry.subject, []).append((path, entry))
    lacking = _check([path for found in by_subject.values() for path, _ in found], allow_missing=allow_missing)
    subjects, problems = [], Problems()
    for name, found in sorted(by_subject.items()):
        with problems.noting():
            kept = [(path, entry) for path, entry in found if path not in lacking]
            if not any(entry.role == "subject" for _, entry in kept):
                raise VectorFitError(f"{name}: 0 pictures of the subject left to score")
            missing = [f"{path.name}: {lacking[path]}" for path, _ in found if path in lacking]
            subjects.append(Subject(name, _references(reference, name), kept, missing))
    problems.raise_all()
    return subjects
