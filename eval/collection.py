"""Collects the images to score, generated and real, by subject. All are checked before any is measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vf_dreambooth.photos import open_photo, photo_paths
from vf_training.problems import Problems
from vf_training.runs import RunFolder

from . import manifest
from .manifest import Entry

EVALUATION = "evaluation"  # the folder in a run folder where its images and scores are
FACTS = "facts.json"  # beside a manifest: facts of the training
UNKNOWN_SEED = -1  # of images in plain folders, which are identified by their file names
BLACK = 2  # the brightest pixel of an image that a safety checker has blanked


@dataclass(frozen=True)
class Subject:
    """A subject: its real images, and its generated images as (file, manifest entry).

    `captions` say what the real images show, one for each, where that is known.
    """

    name: str
    references: list[Path]
    pictures: list[tuple[Path, Entry]]
    missing: list[str] = field(default_factory=list)  # images left out with --allow_missing, with reasons
    captions: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder that the file names of its entries are relative to."""
        path, entry = self.pictures[0]
        return Path(str(path).removesuffix(entry.file))

    def facts(self) -> dict[str, Any]:
        """The facts of its training, none where the images are in a plain folder."""
        file = self.folder / FACTS
        facts: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return facts


def mean_facts(of_runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means of the facts of several runs, and their method.

    Raises:
        VectorFitError: the runs used different methods, whose scores do not belong in one result.
    """
    facts: dict[str, Any] = {}
    for name in ("parameters", "bytes", "seconds", "memory"):
        values = [of_run[name] for of_run in of_runs if name in of_run]
        if values:
            facts[name] = sum(values) / len(values)
    methods = sorted({of_run["method"] for of_run in of_runs if "method" in of_run})
    if len(methods) > 1:
        raise VectorFitError(f"--generated: trainings with {' and '.join(methods)}; score each method separately")
    return facts | ({"method": methods[0]} if methods else {})


def _folders(generated: Path) -> list[Path]:
    """The folders of images in a path: itself, a run folder's evaluation, or one inner folder per subject."""
    if not generated.is_dir():
        raise VectorFitError(f"--generated {generated}: no such folder; expected generated images")
    if (generated / manifest.NAME).exists():
        return [generated]
    run = RunFolder(generated)
    if run.config.exists() and run.vectors.exists():
        if not (generated / EVALUATION / manifest.NAME).exists():
            raise VectorFitError(f"--generated {generated}: a run without generated images; run eval generate first")
        return [generated / EVALUATION]
    inner = [folder for folder in sorted(generated.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    images, filled = photo_paths(generated), [folder for folder in inner if _holds_images(folder)]
    if images and filled:
        raise VectorFitError(
            f"--generated {generated}: {len(images)} images beside {len(filled)} folders of images; "
            f"expected one or the other (does {images[0].name} belong there?)"
        )
    if images:
        return [generated]
    empty = [folder.name for folder in inner if folder not in filled]
    if not filled or empty:
        some_empty = f"{len(empty)} of {len(inner)} folders have 0 images ({', '.join(empty[:3])})"
        problem = some_empty if filled else "0 images there and in its folders"
        raise VectorFitError(f"--generated {generated}: {problem}; expected PNG, JPEG or WebP")
    return [deeper for folder in filled for deeper in _folders(folder)]


def _holds_images(folder: Path) -> bool:
    has_manifest = any((path / manifest.NAME).exists() for path in (folder, folder / EVALUATION))
    return has_manifest or bool(photo_paths(folder))


def read_prompts(path: Path) -> dict[str, str]:
    """Prompts by file name, from a JSON object or from lines of file name, tab, prompt.

    Raises:
        VectorFitError: the file cannot be read, or a line has no tab.
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
    prompts_by_name = prompts or {}
    texts = {path: prompts_by_name.get(f"{folder.name}/{path.name}", prompts_by_name.get(path.name)) for path in paths}
    without = [path.name for path, text in texts.items() if text is None]
    if prompts is not None and without:
        raise VectorFitError(
            f"{folder}: {len(without)} of {len(paths)} images have no prompt in --prompts, such as {without[0]}; "
            "add them, or score without prompts"
        )
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts.values()), start=1)}
    entries = []
    for path, text in texts.items():
        prompt, number = text or "", numbers[text] if text else 0
        entry = Entry(path.name, folder.name, "", "subject", number, "", prompt, prompt, UNKNOWN_SEED, "")
        entries.append((path, entry))
    return entries


def _check_prompts(prompts: dict[str, str], folders: list[Path]) -> None:
    """Raises VectorFitError for prompts without an image, and for file names that several subjects have."""
    images = {folder: {path.name for path in photo_paths(folder)} for folder in folders}
    full_names = {f"{folder.name}/{name}" for folder, names in images.items() for name in names}
    bare_names = {name for names in images.values() for name in names}
    unused = [name for name in prompts if name not in full_names | bare_names]
    if unused:
        raise VectorFitError(f"--prompts: {len(unused)} of {len(prompts)} images are missing, such as {unused[0]}")
    shared = [name for name in prompts if sum(name in names for names in images.values()) > 1]
    if shared:
        raise VectorFitError(f"--prompts: {shared[0]} is an image of several subjects; write 'SUBJECT/{shared[0]}'")


def _references(folder: Path, reference: Path | None, subject: str, *, alone: bool) -> list[Path]:
    """A subject's real images, from `reference` or from the recorded folder of its photos.

    `reference` has an inner folder per subject. For a subject that is `alone` it may hold the images itself.
    """
    if reference is None:
        facts = folder / FACTS
        recorded = json.loads(facts.read_text()).get("references") if facts.exists() else None
        if recorded is None:
            raise VectorFitError(
                f"--reference: missing, and {folder} does not record where the photos of {subject} are"
            )
        reference, alone = Path(recorded), True
    for candidate in (reference / subject, *((reference,) if alone else ())):
        if candidate.is_dir() and photo_paths(candidate):
            return photo_paths(candidate)
    raise VectorFitError(f"--reference {reference}: 0 real images of {subject}{'' if alone else f' in {subject}/'}")


def _is_black(path: Path) -> bool:
    return max(high for _, high in open_photo(path).getextrema()) <= BLACK


def _check(paths: list[Path], *, allow_missing: bool) -> dict[Path, str]:
    """Images that cannot be scored, with reasons. Raises VectorFitError with all of them unless `allow_missing`."""
    unusable: dict[Path, str] = {}
    for path in paths:
        try:
            if not path.exists():
                unusable[path] = "missing"
            elif _is_black(path):
                unusable[path] = "black, probably blanked by a safety checker"
        except VectorFitError as error:
            unusable[path] = str(error).removeprefix(f"{path}: ")
    if unusable and not allow_missing:
        shown = "\n".join(f"  {path}: {why}" for path, why in list(unusable.items())[:10])
        more = f"\n  and {len(unusable) - 10} more" if len(unusable) > 10 else ""
        raise VectorFitError(
            f"{len(unusable)} of {len(paths)} generated images cannot be scored; generate them again, or leave them "
            f"out with --allow_missing:\n{shown}{more}"
        )
    return unusable


def gather(
    generated: list[Path], reference: Path | None, prompts: Path | None = None, *, allow_missing: bool = False
) -> list[Subject]:
    """The subjects in folders of generated images, with their real images, in the order of their names.

    Raises:
        VectorFitError: a folder has no images, or images are unreadable, black or without a prompt; with counts.
    """
    texts = read_prompts(prompts) if prompts else None
    folders = [folder for path in generated for folder in _folders(path)]
    if texts is not None:
        _check_prompts(texts, [folder for folder in folders if not (folder / manifest.NAME).exists()])
    by_subject: dict[str, tuple[Path, list[tuple[Path, Entry]]]] = {}
    for folder in folders:
        for path, entry in _entries(folder, texts):
            first_folder, images = by_subject.setdefault(entry.subject, (folder, []))
            if first_folder != folder:
                raise VectorFitError(
                    f"{entry.subject}: images in {first_folder} and in {folder}; score them separately"
                )
            images.append((path, entry))
    unusable = _check([path for _, images in by_subject.values() for path, _ in images], allow_missing=allow_missing)
    subjects, problems = [], Problems()
    for name, (folder, images) in sorted(by_subject.items()):
        with problems.noting():
            kept = [(path, entry) for path, entry in images if path not in unusable]
            if not any(entry.role == "subject" for _, entry in kept):
                raise VectorFitError(f"{name}: 0 images of the subject left to score")
            missing = [f"{path.name}: {unusable[path]}" for path, _ in images if path in unusable]
            real = _references(folder, reference, name, alone=len(by_subject) == 1)
            subjects.append(Subject(name, real, kept, missing))
    problems.raise_all()
    return subjects
