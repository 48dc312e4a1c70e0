"""Two methods on the same prompts and seeds: paired differences, and how sure they are."""

from collections.abc import Mapping
from typing import Any

from vectorfit import VectorFitError

from .collection import UNKNOWN_SEED
from .intervals import Estimate, estimate, win_rate

KINDS = ("dino", "clip_i", "clip_t")


def require_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raises VectorFitError naming what two results differ in that must be equal for their scores to be compared."""
    unlike = []
    for name in ("name", "version", "text", "hash"):
        a, b = first["protocol"][name], second["protocol"][name]
        unlike += [f"protocol {name} {a!r} and {b!r}"] if a != b else []
    for name in ("dino", "clip"):
        a, b = (result["encoders"][name]["weights_sha256"][:12] for result in (first, second))
        unlike += [f"weights of {name} {a} and {b}"] if a != b else []
    for name in sorted(set(first["subjects"]) & set(second["subjects"])):
        a, b = (result["subjects"][name].get("references_sha256") for result in (first, second))
        unlike += [f"the real pictures of {name}"] if a != b else []
    if unlike:
        raise VectorFitError(
            f"results of unlike protocols are not compared; they differ in {'; '.join(unlike)}: "
            "score both with one protocol"
        )


def _pictures(result: Mapping[str, Any]) -> dict[tuple[str, str, int, str], Mapping[str, Any]]:
    """Pictures by subject, prompt and seed; those of plain folders, whose seeds nobody knows, by file name."""
    found: dict[tuple[str, str, int, str], Mapping[str, Any]] = {}
    for name, subject in result["subjects"].items():
        for image in subject["images"]:
            key = (name, image["prompt"], image["seed"], image["file"] if image["seed"] == UNKNOWN_SEED else "")
            if key in found:
                raise VectorFitError(f"{result['method']}: two pictures of {name} for {image['prompt']!r} at one seed")
            found[key] = image
    return found


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Differences first - second on equal (subject, prompt, seed), with intervals over subjects and win rates.

    Raises:
        VectorFitError: unlike protocols, or no picture in common.
    """
    require_alike(first, second)
    mine, theirs = _pictures(first), _pictures(second)
    common = sorted(set(mine) & set(theirs))
    if not common:
        raise VectorFitError(
            f"no picture in common: {len(mine)} and {len(theirs)} pictures, none of the same subject, prompt and seed"
        )
    found: dict[str, Any] = {
        "first": first["method"],
        "second": second["method"],
        "pairs": len(common),
        "unpaired": [len(mine) - len(common), len(theirs) - len(common)],
        "labels": first["labels"],
    }
    for kind in KINDS:
        differences: dict[str, list[float]] = {}
        for key in common:
            a, b = mine[key][kind], theirs[key][kind]
            if a is not None and b is not None:
                differences.setdefault(key[0], []).append(a - b)
        if differences:
            told: Estimate = estimate(differences)
            found[kind] = {
                "difference": round(told.mean, 6),
                "low": round(told.low, 6),
                "high": round(told.high, 6),
                "win_rate": round(win_rate(differences), 4),
                "subjects": told.clusters,
            }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The comparison as lines for a reader."""
    lines = [f"{found['first']} minus {found['second']}, {found['pairs']} pairs of pictures"]
    if any(found["unpaired"]):
        lines.append(f"left out, without a partner: {found['unpaired'][0]} and {found['unpaired'][1]}")
    for kind in KINDS:
        if kind in found:
            row = found[kind]
            lines.append(
                f"{found['labels'][kind]:16} {row['difference']:+.4f}  95 % {row['low']:+.4f} to {row['high']:+.4f}  "
                f"better in {row['win_rate']:.0%} of the pairs"
            )
    return "\n".join(lines)
