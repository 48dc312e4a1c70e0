"""Compares two methods on the same prompts and seeds: paired differences with confidence intervals."""

from collections.abc import Mapping
from typing import Any

from vectorfit import VectorFitError

from .collection import UNKNOWN_SEED
from .intervals import PERCENT, Estimate, estimate, win_rate

KINDS = ("dino", "clip_i", "clip_t")


def require_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raises VectorFitError with every difference that makes the scores of two results incomparable."""
    differences = []
    for name in ("name", "version", "text", "hash"):
        a, b = first["protocol"][name], second["protocol"][name]
        differences += [f"protocol {name} {a!r} and {b!r}"] if a != b else []
    for name in ("dino", "clip"):
        a, b = (result["encoders"][name]["weights_sha256"][:12] for result in (first, second))
        differences += [f"weights of {name} {a} and {b}"] if a != b else []
    for name in sorted(set(first["subjects"]) & set(second["subjects"])):
        a, b = (result["subjects"][name].get("references_sha256") for result in (first, second))
        differences += [f"the real images of {name}"] if a != b else []
    if differences:
        raise VectorFitError(
            f"results of different protocols cannot be compared; they differ in {'; '.join(differences)}: "
            "score both with one protocol"
        )


def _images(result: Mapping[str, Any]) -> dict[tuple[str, str, int, str], Mapping[str, Any]]:
    """Images by subject, prompt and seed; by file name too if the seed is unknown, as in plain folders."""
    images: dict[tuple[str, str, int, str], Mapping[str, Any]] = {}
    for name, subject in result["subjects"].items():
        for image in subject["images"]:
            key = (name, image["prompt"], image["seed"], image["file"] if image["seed"] == UNKNOWN_SEED else "")
            if key in images:
                raise VectorFitError(f"{result['method']}: two images of {name} for {image['prompt']!r} at one seed")
            images[key] = image
    return images


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Differences first - second on equal (subject, prompt, seed), with intervals over subjects and win rates.

    Raises:
        VectorFitError: the protocols differ, or the results have no image in common.
    """
    require_alike(first, second)
    first_images, second_images = _images(first), _images(second)
    common = sorted(set(first_images) & set(second_images))
    if not common:
        raise VectorFitError(
            f"no image in common: {len(first_images)} and {len(second_images)} images, none with the same subject, "
            "prompt and seed"
        )
    comparison: dict[str, Any] = {
        "first": first["method"],
        "second": second["method"],
        "pairs": len(common),
        "unpaired": [len(first_images) - len(common), len(second_images) - len(common)],
        "labels": first["labels"],
    }
    for kind in KINDS:
        differences: dict[str, list[float]] = {}
        for key in common:
            a, b = first_images[key][kind], second_images[key][kind]
            if a is not None and b is not None:
                differences.setdefault(key[0], []).append(a - b)
        if differences:
            average: Estimate = estimate(differences)
            comparison[kind] = {
                "difference": round(average.mean, 6),
                "low": round(average.low, 6),
                "high": round(average.high, 6),
                "win_rate": round(win_rate(differences), 4),
                "subjects": average.clusters,
            }
    return comparison


def table(comparison: Mapping[str, Any]) -> str:
    """A comparison as lines of text."""
    lines = [f"{comparison['first']} minus {comparison['second']}, {comparison['pairs']} pairs of images"]
    if any(comparison["unpaired"]):
        lines.append(f"left out, without a partner: {comparison['unpaired'][0]} and {comparison['unpaired'][1]}")
    for kind in KINDS:
        if kind in comparison:
            row = comparison[kind]
            interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
            lines.append(
                f"{comparison['labels'][kind]:16} {row['difference']:+.4f}  {PERCENT} {interval}  "
                f"better in {row['win_rate']:.0%} of the pairs"
            )
    return "\n".join(lines)
