"""Why some settings cannot be given together with a method: "" where they can."""

from collections.abc import Mapping
from typing import Any

from vf_training import methods


def freezes(values: Mapping[str, Any]) -> bool:
    """Whether the training freezes vectors."""
    method = methods.METHODS.get(values["method"])  # None where the name is a mistake, which is reported by itself
    return bool(values["avf"] and method is not None and method.freezing)


def freezing_conflict(values: Mapping[str, Any]) -> str:
    """Why a setting of the freezing cannot be given."""
    why = "--no-avf" if not values["avf"] else f"--method {values['method']}"
    return "" if freezes(values) else f"{why} freezes nothing; leave one of them out"


def prior_conflict(values: Mapping[str, Any]) -> str:
    """Why the prior cannot be given."""
    method = methods.METHODS.get(values["method"])
    if values["prior"] == "drift" and method is not None and not method.trains_vectors:
        return f"drift measures what vectors changed, and --method {values['method']} has none"
    return ""
