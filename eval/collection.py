"""What is to be scored: generated and real pictures by subject, all checked before anything is measured."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from vectorfit import VectorFitError
from vf_dreambooth.photos import open_photo, photo_paths
from vf_training.problems import Problems

from . import manifest
from .manifest import Entry

FACTS = "facts.json"  # beside a manifest: what is known of the training
UNKNOWN_SEED = -1  # of pictures in plain folders, which are told apart by their names
BLACK = 2  # the brightest pixel of what a safety checker has blanked


@dataclass(frozen=True)
class Subject:
    """A subject's real pictures, and what was generated of it: (file, what it answers)."""

    name: str
    references: list[Path]
    pictures: list[tuple[Path, Entry]]
    missing: list[str] = field(default_factory=list)  # pictures left out with --allow_missing, and why


def _folders(generated: Path) -> list[Path]:
    """A folder of pictures, the evaluation of a run folder, or a folder of such folders, one per subject."""
    if not generated.is_dir():
        raise VectorFitError(f"--generated {generated}: no such folder; expected generated pictures")
    if (generated / manifest.NAME).exists():
        return [generated]
    if (generated / "config.json").exists() and (generated / "vectors.safetensors").exists():  # a run folder
        if not (generated / "evaluation" / manifest.NAME).exists():
            raise VectorFitError(f"--generated {generated}: a run without generated pictures; run eval generate first")
        return [generated / "evaluation"]
    inside = [folder for folder in sorted(generated.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    pictures, filled = photo_paths(generated), [folder for folder in inside if _holds_pictures(folder)]
    if pictures and filled:
        raise VectorFitError(
            f"--generated {generated}: {len(pictures)} pictures beside {len(filled)} folders of pictures; "
            f"expected one or the other (is {pictures[0].name} in its place?)"
        )
    if pictures:
        return [generated]
    empty = [folder.name for folder in inside if folder not in filled]
    if not filled or empty:
        named = f"{len(empty)} of {len(inside)} folders have 0 pictures ({', '.join(empty[:3])})"
        what = named if filled else "0 pictures there and in its folders"
        raise VectorFitError(f"--generated {generated}: {what}; expected PNG, JPEG or WebP")
    return [found for folder in filled for found in _folders(folder)]


def _holds_pictures(folder: Path) -> bool:
    here = (folder / manifest.NAME).exists() or (folder / "evaluation" / manifest.NAME).exists()
    return here or bool(photo_paths(folder))


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
    told = {path: (prompts or {}).get(f"{folder.name}/{path.name}", (prompts or {}).get(path.name)) for path in paths}
    absent = [path.name for path, text in told.items() if text is None]
    if prompts is not None and absent:
        raise VectorFitError(
            f"{folder}: {len(absent)} of {len(paths)} pictures have no prompt in --prompts, such as {absent[0]}; "
            "add them, or score without prompts"
        )
    numbers = {text: number for number, text in enumerate(dict.fromkeys(told.values()), start=1)}
    found = []
    for path, text in told.items():
        said, number = text or "", numbers[text] if text else 0
        entry = Entry(path.name, folder.name, "", "subject", number, "", said, said, UNKNOWN_SEED, "")
        found.append((path, entry))
    return found


def _check_prompts(prompts: dict[str, str], folders: list[Path]) -> None:
    """Raises VectorFitError for prompts of no picture, and for bare names that several subjects have."""
    there = {folder: {path.name for path in photo_paths(folder)} for folder in folders}
    known = {f"{folder.name}/{name}" for folder, names in there.items() for name in names}
    idle = [name for name in prompts if name not in known and not any(name in names for names in there.values())]
    if idle:
        raise VectorFitError(f"--prompts: {len(idle)} of {len(prompts)} pictures are missing, such as {idle[0]}")
    shared = [name for name in prompts if sum(name in names for names in there.values()) > 1]
    if shared:
        raise VectorFitError(f"--prompts: {shared[0]} is a picture of several subjects; write 'SUBJECT/{shared[0]}'")


def _references(folder: Path, reference: Path | None, subject: str, *, alone: bool) -> list[Path]:
    """A subject's real pictures: in a folder of its name, those given if it is the only one, or those it recorded."""
    if reference is None:
        facts = folder / FACTS
        recorded = json.loads(facts.read_text()).get("references") if facts.exists() else None
        if recorded is None:
            raise VectorFitError(f"--reference: missing, and {folder} does not tell where the photos of {subject} are")
        reference, alone = Path(recorded), True
    for place in (reference / subject, *((reference,) if alone else ())):
        if place.is_dir() and photo_paths(place):
            return photo_paths(place)
    raise VectorFitError(f"--reference {reference}: 0 real pictures of {subject}{'' if alone else f' in {subject}/'}")


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
    generated: list[Path], reference: Path | None, prompts: Path | None = None, *, allow_missing: bool = False
) -> list[Subject]:
    """The subjects of one or more folders of generated pictures, with their real pictures, in the order of their names.

    Raises:
        VectorFitError: folders without pictures, pictures without prompts, unreadable or black ones, all with counts.
    """
    texts = read_prompts(prompts) if prompts else None
    folders = [folder for place in generated for folder in _folders(place)]
    if texts is not None:
        _check_prompts(texts, [folder for folder in folders if not (folder / manifest.NAME).exists()])
    by_subject: dict[str, tuple[Path, list[tuple[Path, Entry]]]] = {}
    for folder in folders:
        for path, entry in _entries(folder, texts):
            first = by_subject.setdefault(entry.subject, (folder, []))
            if first[0] != folder:
                raise VectorFitError(f"{entry.subject}: pictures in {first[0]} and in {folder}; score them one by one")
            first[1].append((path, entry))
    lacking = _check([path for _, found in by_subject.values() for path, _ in found], allow_missing=allow_missing)
    subjects, problems = [], Problems()
    for name, (folder, found) in sorted(by_subject.items()):
        with problems.noting():
            kept = [(path, entry) for path, entry in found if path not in lacking]
            if not any(entry.role == "subject" for _, entry in kept):
                raise VectorFitError(f"{name}: 0 pictures of the subject left to score")
            missing = [f"{path.name}: {lacking[path]}" for path, _ in found if path in lacking]
            real = _references(folder, reference, name, alone=len(by_subject) == 1)
            subjects.append(Subject(name, real, kept, missing))
    problems.raise_all()
    return subjects
