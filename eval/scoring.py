"""Scores of generated images, from embeddings to the result that reports and comparisons read."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_dreambooth.prompts import default_prompts

from .collection import Subject
from .embeddings import embed_files
from .encoders import Encoder, Encoders
from .intervals import estimate
from .manifest import Entry
from .protocols import Protocol

SCHEMA = "vectorfit-eval/1"
DIGITS = 6  # of a score in a result; float32 is not more precise


def pairwise(generated: Tensor, real: Tensor) -> Tensor:
    """The mean cosine of each generated image with all real ones. Shapes: unit vectors [n, d], [m, d]; result [n]."""
    return (generated.double() @ real.double().T).mean(1)


def ceiling(real: Tensor) -> tuple[float, float | None]:
    """The mean cosine of real images with each other: with self-pairs, and without (None for a single image)."""
    cosines, count = real.double() @ real.double().T, len(real)
    without_self = (cosines.sum() - cosines.trace()) / (count * (count - 1)) if count > 1 else None
    return float(cosines.mean()), None if without_self is None else float(without_self)


def diversity(embeddings: Tensor, prompt_ids: Sequence[int]) -> float | None:
    """1 - mean pairwise cosine of the images of a prompt, averaged over the prompts with more than one image."""
    values = []
    for number in sorted(set(prompt_ids)):
        of_prompt = embeddings[torch.tensor([index for index, other in enumerate(prompt_ids) if other == number])]
        similarity = ceiling(of_prompt)[1]
        values += [] if similarity is None else [1 - similarity]
    return sum(values) / len(values) if values else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _overfitting(generated: Tensor, real: Tensor, by_role: Mapping[str, list[tuple[Entry, Tensor]]]) -> dict[str, Any]:
    """Similarity to the nearest photo; PRES and drift if class images were generated."""
    scores: dict[str, Any] = {"nearest_reference": float((generated.double() @ real.double().T).max(1).values.mean())}
    classes = by_role.get("class", [])
    if classes:
        scores["pres"] = float(pairwise(torch.stack([vector for _, vector in classes]), real).mean())
    base = {(entry.prompt_id, entry.seed): vector for entry, vector in by_role.get("base_class", [])}
    pairs = [(vector, base[e.prompt_id, e.seed]) for e, vector in classes if (e.prompt_id, e.seed) in base]
    if pairs:
        scores["drift"] = float(sum((1 - float(a.double() @ b.double())) / 2 for a, b in pairs) / len(pairs))
    return scores


def _frame(
    subject: Subject, encoders: Encoders, real: tuple[Tensor, Tensor], dino: Tensor, clip: Tensor
) -> dict[str, dict[str, float | None]]:
    """What a score is read between: the scores of the photos themselves, and of the base's images of the class.

    The photos are compared with each other, and for CLIP-T with their captions, or with "a photo of a CLASS" where
    there are none. Shapes: unit embeddings of the photos [m, d] by both encoders, and of all images [n, d].
    """
    cls = next(entry.cls for _, entry in subject.pictures if entry.role == "subject")
    captions = subject.captions or ([default_prompts("", cls)[1]] * len(subject.references) if cls else [])
    photos = {kind: ceiling(vectors)[1] for kind, vectors in zip(("dino", "clip_i"), real, strict=True)}
    frame = {"photos": {**photos, "clip_t": _mean_cosine(real[1], encoders.clip.texts(captions)) if captions else None}}
    of_base = [i for i, (_, entry) in enumerate(subject.pictures) if entry.role == "base_class"]
    if of_base:
        texts = encoders.clip.texts([subject.pictures[i][1].text for i in of_base])
        frame["base"] = {
            "dino": float(pairwise(dino[of_base], real[0]).mean()),
            "clip_i": float(pairwise(clip[of_base], real[1]).mean()),
            "clip_t": _mean_cosine(clip[of_base], texts),
        }
    return frame


def _mean_cosine(images: Tensor, texts: Tensor) -> float:
    """The mean cosine of each image with its own text. Shapes: unit vectors [n, d]."""
    return float((images.double() * texts.double()).sum(1).mean())


def _content_hash(paths: Sequence[Path]) -> str:
    """A hash of the files' contents, independent of names and order."""
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def hashes(subject: Subject) -> dict[str, str]:
    """Hashes of what a subject's scores are of: the photos, and the pictures with what each of them answers."""
    lines = [
        f"{' '.join(map(str, (*entry.key, entry.text)))} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path, entry in subject.pictures
    ]
    return {
        "references_sha256": _content_hash(subject.references),
        "pictures_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
    }


def score_subject(
    subject: Subject, encoders: Encoders, protocol: Protocol, *, progress: bool = False
) -> dict[str, Any]:
    """All scores of one subject: per image, means, the real images' scores, and the overfitting panel."""
    title = subject.name if progress else ""
    entries = [entry for _, entry in subject.pictures]
    paths = [path for path, _ in subject.pictures]
    dino = embed_files(encoders.dino, paths, progress=title and f"{title} DINO")
    clip = embed_files(encoders.clip, paths, progress=title and f"{title} CLIP")
    real = embed_files(encoders.dino, subject.references), embed_files(encoders.clip, subject.references)
    positions = [position for position, entry in enumerate(entries) if entry.role == "subject"]
    of_subject, index = [entries[position] for position in positions], torch.tensor(positions)
    texts = [entry.prompt if protocol.text == "with-token" else entry.text for entry in of_subject]
    text_vectors: dict[str, Tensor] = {}
    if any(texts):
        text_vectors = dict(zip(sorted(set(texts)), encoders.clip.texts(sorted(set(texts))), strict=True))
    images = []
    dino_scores, clip_scores = pairwise(dino[index], real[0]).tolist(), pairwise(clip[index], real[1]).tolist()
    for position, entry, text, by_dino, by_clip in zip(
        positions, of_subject, texts, dino_scores, clip_scores, strict=True
    ):
        clip_t = float(clip[position].double() @ text_vectors[text].double()) if text else None
        fields = {key: getattr(entry, key) for key in ("file", "prompt_id", "group", "prompt", "seed")}
        images.append({**fields, "text": text, "dino": by_dino, "clip_i": by_clip, "clip_t": clip_t})
    by_role: dict[str, list[tuple[Entry, Tensor]]] = {}
    for entry, vector in zip(entries, dino, strict=True):
        by_role.setdefault(entry.role, []).append((entry, vector))
    kinds = {
        kind: [image[kind] for image in images if image[kind] is not None] for kind in ("dino", "clip_i", "clip_t")
    }
    ceilings = {name: ceiling(vectors) for name, vectors in zip(("dino", "clip_i"), real, strict=True)}
    return _rounded(
        {
            "class": of_subject[0].cls,
            "references": len(subject.references),
            **hashes(subject),
            "n": len(images),
            "missing": subject.missing,
            **{kind: sum(scores) / len(scores) if scores else None for kind, scores in kinds.items()},
            "real": {
                name: dict(zip(("with_self", "without_self"), pair, strict=True)) for name, pair in ceilings.items()
            },
            "frame": _frame(subject, encoders, real, dino, clip),
            "overfitting": {
                **_overfitting(dino[index], real[0], by_role),
                "diversity": diversity(dino[index], [entry.prompt_id for entry in of_subject]) if any(texts) else None,
            },
            "images": images,
        }
    )


def overall(subjects: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over subjects with intervals, their share of the real images' scores, and the pooled means of all pairs."""
    result: dict[str, Any] = {}
    for kind in ("dino", "clip_i", "clip_t"):
        values = {n: [i[kind] for i in s["images"] if i[kind] is not None] for n, s in subjects.items()}
        values = {name: scores for name, scores in values.items() if scores}
        if not values:
            continue
        result[kind] = dataclasses.asdict(estimate(values))
        # Every pair counts the same, so an image of a subject with more references has more weight.
        weights = [(score, subjects[name]["references"]) for name, scores in values.items() for score in scores]
        if kind != "clip_t":
            result[kind]["pooled"] = sum(score * m for score, m in weights) / sum(m for _, m in weights)
            real = [subjects[name]["real"][kind]["without_self"] for name in values]
            if all(value is not None for value in real) and sum(real) > 0:
                result[kind]["real"] = sum(real) / len(real)
                result[kind]["percent_of_real"] = 100 * result[kind]["mean"] / result[kind]["real"]
    frames = [subject["frame"] for subject in subjects.values()]
    for row in ("photos", "base"):
        if all(row in frame for frame in frames):
            means = {kind: [frame[row][kind] for frame in frames] for kind in ("dino", "clip_i", "clip_t")}
            result[row] = {kind: None if None in own else sum(own) / len(own) for kind, own in means.items()}
    for name in ("pres", "drift", "diversity", "nearest_reference"):
        values_of_name = [subject["overfitting"].get(name) for subject in subjects.values()]
        if all(value is not None for value in values_of_name):
            result[name] = sum(values_of_name) / len(values_of_name)
    return _rounded(result)


def _labels(protocol: Protocol, encoders: Encoders) -> dict[str, str]:
    """The scores' names; weights that are not verified are marked."""
    encoder_of = {"dino": encoders.dino, "clip_i": encoders.clip, "clip_t": encoders.clip}
    labels = zip(encoder_of.items(), protocol.labels, strict=True)
    return {kind: label if encoder.verified else f"{label} (weights not verified)" for (kind, encoder), label in labels}


def _described(encoder: Encoder) -> dict[str, Any]:
    return {"name": encoder.name, "weights_sha256": encoder.weights_sha256, "verified": encoder.verified}


def measure(protocol: Protocol, encoders: Encoders) -> dict[str, Any]:
    """The part of a result that says what was measured with; scores of equal ones belong together."""
    return {
        "schema": SCHEMA,
        "protocol": {"name": protocol.name, "version": protocol.version, "hash": protocol.hash, "text": protocol.text},
        "labels": _labels(protocol, encoders),
        "encoders": {"dino": _described(encoders.dino), "clip": _described(encoders.clip)},
    }


def _environment() -> dict[str, str]:
    import open_clip
    import timm

    versions = {"torch": torch.__version__, "timm": timm.__version__, "open_clip": open_clip.__version__}
    return {"python": platform.python_version(), **versions}


def result_of(
    subjects: Mapping[str, dict[str, Any]],
    protocol: Protocol,
    encoders: Encoders,
    *,
    method: str,
    facts: Mapping[str, Any],
    allow_missing: bool,
) -> dict[str, Any]:
    """The whole result, as `write` writes it."""
    options = {"method": method, "facts": facts, "allow_missing": allow_missing}
    return _assembled(measure(protocol, encoders), subjects, _environment(), **options)


def _assembled(
    measured_with: Mapping[str, Any],
    subjects: Mapping[str, dict[str, Any]],
    environment: Mapping[str, str],
    *,
    method: str,
    facts: Mapping[str, Any],
    allow_missing: bool,
    more_deviations: Sequence[str] = (),
) -> dict[str, Any]:
    deviations = [
        f"the weights of {encoder['name']} are a local file, which was not verified against the published ones"
        for encoder in measured_with["encoders"].values()
        if not encoder["verified"]
    ]
    missing = sum(len(subject["missing"]) for subject in subjects.values())
    deviations += [f"{missing} images are missing"] if allow_missing and missing else []
    return {
        **measured_with,
        "deviations": [*deviations, *more_deviations],
        "method": method,
        "facts": dict(facts),
        "overall": overall(subjects),
        "subjects": dict(subjects),
        "environment": dict(environment),
    }


def merge(results: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
    """One result of several, each of other subjects: what scoring all of them at once gives.

    Takes the method, facts and `allow_missing` of `result_of`, and `more_deviations`.

    Raises:
        VectorFitError: results were measured with different protocols or weights.
    """
    by_subject = {name: result for result in results for name in result["subjects"]}
    first = min(by_subject)
    measured_with = {key: by_subject[first][key] for key in ("schema", "protocol", "labels", "encoders")}
    for name, result in by_subject.items():
        different = [key for key, value in measured_with.items() if result[key] != value]
        if different:
            raise VectorFitError(
                f"{first} and {name}: scored with different {' and '.join(different)}; score both anew"
            )
    subjects = {name: by_subject[name]["subjects"][name] for name in sorted(by_subject)}
    versions: dict[str, list[str]] = {}
    for result in by_subject.values():
        for library, version in result["environment"].items():
            versions[library] = sorted({*versions.get(library, []), version})
    environment = {library: ", ".join(found) for library, found in versions.items()}
    return _assembled(measured_with, subjects, environment, **options)


def as_bytes(result: Mapping[str, Any]) -> bytes:
    return (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode()


def write(result: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, as_bytes(result))


def read(path: Path) -> dict[str, Any]:
    """Reads a result. Raises VectorFitError if the file is not one, or has another schema."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = result.get("schema")
    except OSError as error:
        raise VectorFitError(f"{path}: cannot be read ({error.strerror}); expected a result of eval score") from error
    except (ValueError, AttributeError) as error:
        raise VectorFitError(f"{path}: not a result of eval score ({error})") from error
    if schema != SCHEMA:
        raise VectorFitError(f"{path}: schema {schema!r}, expected {SCHEMA!r}")
    return result
