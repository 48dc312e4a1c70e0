"""The subject file: a few vectors in safetensors, with what identifies their base."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import container
from .atomic import PathLike
from .config import VectorFitConfig
from .container import PREFIX
from .errors import VectorFitError
from .fingerprint import (
    by_canonical_path,
    canonical_name,
    probe,
    probe_error,
    sketch,
    unlike_layers,
    weights_sha256,
)
from .idle_biases import idle_biases
from .injection import inject, remove
from .layers import VectorFitLayer, layer_for
from .modules import Models, named_modules
from .pattern import Pattern
from .record import Injection, injection_of
from .sharding import gathered

FACTORISATION = "float32 factors of a float64 Gram eigendecomposition, or of a float64 SVD where the spectrum is steep"
HARMLESS = 1e-3  # relative error of dW at which deltas on other weights still count as the same
PATTERN_FIELDS = ("pattern", "pattern_width")
CONFIG_FIELDS = ("variant", "bias", *PATTERN_FIELDS)  # the part of the configuration that a file keeps


def save_vectors(
    models: Models,
    path: PathLike,
    *,
    base_model: str,
    base_revision: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
    write: bool = True,
) -> None:
    """Writes the deltas with the metadata that `load_vectors` verifies. Equal inputs give equal bytes.

    Of a model that FSDP has split every process calls this; those with `write` False take part and write nothing.

    `dtype` float16 halves the file; each number is then rounded by at most 2^-11 of itself.

    Raises:
        VectorFitError: there is nothing to save, or a delta is not finite (in `dtype`).
    """
    if dtype not in (torch.float32, torch.float16):
        raise VectorFitError(f"{path}: dtype is {dtype}, expected torch.float32 or torch.float16")
    injection = injection_of(models)
    vectors = {
        canonical_name(name): gathered(parameter.detach()).to(dtype).cpu().contiguous()
        for name, parameter in injection.parameters.items()
    }
    if not vectors:
        raise VectorFitError(f"{path}: the model has no VectorFit layers to save; call vectorfit.inject first")
    foreign = [name for name in injection.vectors if name.rpartition(".")[2] not in ("sigma", "bias")]
    if foreign:
        raise VectorFitError(
            f"{path}: {foreign[0]} is an adapter's of a PEFT model; save that with its save_pretrained, and convert "
            "the folder with vectorfit.peft.to_subject_file"
        )
    layers = by_canonical_path(injection.layers)
    own = {
        "base_model": base_model,
        "base_revision": base_revision or "",
        "base_sha256": weights_sha256(layers),
        "sketch": sketch(layers),
        "probe": json.dumps(probe(layers, vectors), separators=(",", ":")),
        "factorisation": FACTORISATION,
        "versions": f"torch {torch.__version__}",
        "modules_to_save": json.dumps(sorted(map(canonical_name, injection.heads))),
        "config": json.dumps({field: getattr(injection.config, field) for field in CONFIG_FIELDS}, sort_keys=True),
    }
    if write:
        container.write(path, vectors, own, metadata)


def read_vectors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The deltas of a file, without modules trained whole, and its metadata; no model is needed.

    Raises:
        VectorFitError: it is not a subject file, or damaged.
    """
    subject = _Subject(path, 1.0, *container.read(path))
    container.require_untouched(subject.path, subject.tensors, subject.metadata)
    return dict(sorted(subject.vectors.items())), subject.metadata


def pattern_of(path: PathLike, metadata: Mapping[str, str]) -> Pattern:
    """The pattern of a file's sigmas. Raises VectorFitError when its configuration is damaged."""
    try:
        saved = json.loads(metadata.get(PREFIX + "config", "{}"))
        fields = {name: value for name, value in saved.items() if name in PATTERN_FIELDS}
        return VectorFitConfig(**fields).matrix_pattern
    except (ValueError, TypeError, AttributeError, VectorFitError) as error:
        raise VectorFitError(f"{path}: its configuration is damaged ({error})") from error


@dataclass(frozen=True)
class _Subject:
    """A subject file as read, and the strength to load it at."""

    path: PathLike
    strength: float
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def remedy(self) -> str:
        base = self.metadata.get(PREFIX + "base_model", "an unnamed base")
        return f"it was trained on {base!r}, load it on that base model"

    @property
    def pattern(self) -> Pattern:
        """The pattern of its sigmas."""
        return pattern_of(self.path, self.metadata)

    @property
    def heads(self) -> list[str]:
        """The canonical paths of the modules that were trained whole."""
        return container.heads_of(self.path, self.metadata)

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The deltas, without the modules trained whole."""
        inside = tuple(f"{head}." for head in self.heads)
        return {name: tensor for name, tensor in self.tensors.items() if not (inside and name.startswith(inside))}

    def head(self, path: str) -> dict[str, Tensor]:
        """The values of one module trained whole, by the names of its parameters."""
        return {n.removeprefix(f"{path}."): t for n, t in self.tensors.items() if n.startswith(f"{path}.")}

    @property
    def layers(self) -> set[str]:
        """The canonical paths of the layers that its deltas belong to."""
        return {name.rpartition(".")[0] for name in self.vectors}


def _inject_missing(models: Models, before: Injection, loaded: Sequence[_Subject]) -> Injection:
    """Injects the layers that the files adapt and the models lack; returns `before` itself where none is missing."""
    present, present_heads = set(map(canonical_name, before.layers)), set(map(canonical_name, before.heads))
    needed = present.union(*(subject.layers for subject in loaded))
    needed_heads = present_heads.union(*(subject.heads for subject in loaded))
    pattern = _common_pattern(loaded) or before.config.matrix_pattern
    idle = {f"{canonical_name(path)}.bias" for path in idle_biases(models)}
    # Files of version 0.1.0 hold them.
    with_idle = before.config.idle_biases or any(idle & subject.vectors.keys() for subject in loaded)
    same = pattern == before.config.matrix_pattern and with_idle == before.config.idle_biases
    if needed == present and needed_heads == present_heads and same:
        return before
    modules = {canonical_name(path): (path, module) for path, module in named_modules(models)}
    paths = {name: path for name, (path, module) in modules.items() if layer_for(module) is not None}
    for subject in loaded:
        absent = sorted(subject.layers - set(paths)) + sorted(set(subject.heads) - set(modules))
        if absent:
            raise VectorFitError(
                f"{subject.path}: it adapts {absent[0]} and {len(absent) - 1} more layers that the model lacks; "
                f"{subject.remedy}"
            )
    remove(models)
    targets = tuple(paths[name] for name in sorted(needed))
    saved = tuple(modules[name][0] for name in sorted(needed_heads))
    fields = {**pattern.fields, "idle_biases": with_idle, "factors": before.config.factors}
    inject(models, VectorFitConfig(target_modules=targets, modules_to_save=saved, **fields))
    return injection_of(models)


def _common_pattern(loaded: Sequence[_Subject]) -> Pattern | None:
    """The one pattern of all files, None without files. Raises VectorFitError where they differ: they do not add up."""
    for subject in loaded[1:]:
        if subject.pattern != loaded[0].pattern:
            raise VectorFitError(
                f"{subject.path}: its sigmas have the pattern {subject.pattern}, those of {loaded[0].path} "
                f"{loaded[0].pattern}; load one of them"
            )
    return loaded[0].pattern if loaded else None


def _verify(injection: Injection, subject: _Subject, tolerated_error: float) -> None:
    parameters = {canonical_name(name): parameter for name, parameter in injection.parameters.items()}
    metadata, problems = subject.metadata, []
    if metadata.get(PREFIX + "num_vectors") != str(len(subject.tensors)):
        problems.append(f"it holds {len(subject.tensors)} vectors, expected {metadata.get(PREFIX + 'num_vectors')}")
    for name, vector in sorted(subject.tensors.items()):
        if name not in parameters:
            problems.append(f"{name} is unknown to the model")
        elif parameters[name].shape != vector.shape:
            problems.append(f"{name} has shape {tuple(vector.shape)}, expected {tuple(parameters[name].shape)}")
        elif not torch.isfinite(vector).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        more = f" and {len(problems) - 3} more problems" if len(problems) > 3 else ""
        raise VectorFitError(f"{subject.path}: {'; '.join(problems[:3])}{more}; {subject.remedy}")
    container.require_untouched(subject.path, subject.tensors, subject.metadata)
    expected, layers = metadata.get(PREFIX + "base_sha256"), by_canonical_path(injection.layers, subject.layers)
    got = weights_sha256(layers)
    if expected != got:
        what = f"made for base weights with SHA-256 {str(expected)[:12]}..., got {got[:12]}..."
        _judge_other_weights(subject, layers, what, tolerated_error)
    elif subject.pattern.depends_on_factors and not _probed_error(subject, layers) <= tolerated_error:
        raise VectorFitError(
            f"{subject.path}: its {subject.pattern} entries are at other positions here; {subject.remedy}"
        )


def _probed_error(subject: _Subject, layers: Mapping[str, VectorFitLayer]) -> float:
    deltas = {name: tensor.float() for name, tensor in subject.vectors.items()}
    return probe_error(subject.metadata.get(PREFIX + "probe", ""), probe(layers, deltas))


def _judge_other_weights(
    subject: _Subject, layers: Mapping[str, VectorFitLayer], what: str, tolerated_error: float
) -> None:
    """Refuses weights other than the file's unless its probe shows that the change stays nearly the same."""
    unlike = unlike_layers(subject.metadata.get(PREFIX + "sketch", ""), sketch(layers))
    if unlike:
        raise VectorFitError(f"{subject.path}: {what}, of another model ({unlike[0]} differs); {subject.remedy}")
    error = _probed_error(subject, layers)
    if not error <= tolerated_error:
        raise VectorFitError(
            f"{subject.path}: {what}; its change would come out with an error of about {error:.1%}. "
            f"{subject.remedy[0].upper()}{subject.remedy[1:]} in float32, or accept it with tolerated_error={error:.2g}"
        )
    warnings.warn(f"{subject.path}: {what}; its change comes out {error:.2%} off", stacklevel=2)


def set_subjects(
    models: Models, subjects: Sequence[tuple[PathLike, float]], *, tolerated_error: float = HARMLESS
) -> None:
    """Loads several subject files at once, each with its strength, replacing what was loaded; the deltas add up.

    Injects where needed. The effective weights are always composed from the base's, so switching never drifts. Without
    subjects the model is the base. Damaged files and files of another base change nothing. A file may have been trained
    on weights that differ slightly, by rounding to half precision for example. It is then loaded with a warning where
    its probe gives dW an error of at most `tolerated_error`.

    Raises:
        VectorFitError: a file is damaged, or its deltas belong to other weights: with path, got, expected and remedy.
    """
    _load(models, subjects, 1.0, tolerated_error)


def _load(
    models: Models, subjects: Sequence[tuple[PathLike, float]], strength: float, tolerated_error: float
) -> list[_Subject]:
    """As `set_subjects`, with one `strength` more for all of them; returns the files as read."""
    injection, loaded = verified(models, subjects, tolerated_error)
    _add_up(injection, loaded)
    _set_heads(injection, loaded)
    injection.set_strength(strength)
    return loaded


def verified(
    models: Models, subjects: Sequence[tuple[PathLike, float]], tolerated_error: float
) -> tuple[Injection, list[_Subject]]:
    """Reads subject files and verifies that their deltas belong to the models, which are injected where needed.

    Raises:
        VectorFitError: as `set_subjects` does.
    """
    loaded = [_Subject(path, own_strength, *container.read(path)) for path, own_strength in subjects]
    for subject in loaded:
        if PREFIX + "baseline" in subject.metadata:
            method = subject.metadata[PREFIX + "baseline"]
            raise VectorFitError(f"{subject.path}: a file of {method}, not of VectorFit; vf_training.methods loads it")
    _refuse_two_heads(loaded)
    before = injection_of(models)
    injection = _inject_missing(models, before, loaded)
    try:
        for subject in loaded:
            _verify(injection, subject, tolerated_error)
    except VectorFitError:
        if not before.layers:
            remove(models)
        raise
    return injection, loaded


@torch.no_grad()
def _add_up(injection: Injection, loaded: Sequence[_Subject]) -> None:
    """Every delta as the sum of the files' own, each with its strength."""
    deltas = [(subject.strength, subject.vectors) for subject in loaded]
    for name, parameter in injection.vectors.items():
        total, key = torch.zeros_like(parameter), canonical_name(name)
        for strength, vectors in deltas:
            if key in vectors:
                total += strength * vectors[key].to(total)
        parameter.copy_(total)


def _set_heads(injection: Injection, loaded: Sequence[_Subject]) -> None:
    """Gives every module trained whole the values of the file that has it, or the base's where none does."""
    for path, head in injection.heads.items():
        name = canonical_name(path)
        subject = next((subject for subject in loaded if name in subject.heads), None)
        head.set_values(subject.head(name) if subject else head.original)


def _refuse_two_heads(loaded: Sequence[_Subject]) -> None:
    """Raises VectorFitError where two files hold the same module trained whole: those cannot be added."""
    seen: dict[str, PathLike] = {}
    for subject in loaded:
        for head in subject.heads:
            if head in seen:
                raise VectorFitError(f"{subject.path}: brings {head} whole, as {seen[head]} does; load one of them")
            seen[head] = subject.path


def load_vectors(
    models: Models, path: PathLike, strength: float = 1.0, *, tolerated_error: float = HARMLESS
) -> dict[str, Any]:
    """Loads one subject file onto its base and returns its metadata.

    Raises:
        VectorFitError: as `set_subjects` does.
    """
    (subject,) = _load(models, [(path, 1.0)], strength, tolerated_error)
    return subject.metadata


def scale_vectors(path: PathLike, strength: float, target: PathLike) -> None:
    """Writes a file that is another subject file at a strength: its deltas times `strength`, for the same base.

    Raises:
        VectorFitError: the file is not a subject file, damaged, or has modules trained whole, which have no strength.
    """
    subject = _Subject(path, strength, *container.read(path))
    container.require_untouched(path, subject.tensors, subject.metadata)
    if PREFIX + "baseline" in subject.metadata or subject.heads:
        raise VectorFitError(f"{path}: holds more than vectors, so it has no strength; expected a subject file")
    scaled = {name: (strength * tensor.float()).to(tensor.dtype) for name, tensor in subject.tensors.items()}
    numbers = [float(f"{strength * value:.5g}") for value in json.loads(subject.metadata[PREFIX + "probe"])]
    metadata = {key: value for key, value in subject.metadata.items() if key != "format"}
    container.write(target, scaled, {"probe": json.dumps(numbers, separators=(",", ":"))}, metadata)
