"""Learning rates by the names of vectors."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from .errors import VectorFitError


def parameter_groups(vectors: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Sorts vectors into an optimizer's parameter groups, one group for each pattern of names.

    The first pattern that matches a vector's name gives its rate. Write special patterns first and "*" last:
    `{"text_encoder.*": 1e-3, "*.sigma": 4e-2, "*": 4e-3}`.

    Args:
        vectors: the parameters by name, as `vector_parameters` returns them.
        rates: learning rates by pattern. `*` stands for any characters, dots included; case matters (see `fnmatch`).

    Returns:
        A dict per pattern, in the order of `rates`: "params" (in the order of `vectors`), "lr", and "name", which is
        the pattern. `torch.optim.AdamW` takes the list as it is.

    Raises:
        VectorFitError: a rate is negative or not finite, a pattern gives no vector its rate, or no pattern matches a
            vector. The message names every one of them.
    """
    groups: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in rates}
    unmatched = []
    for name, vector in vectors.items():
        pattern = next((pattern for pattern in rates if fnmatchcase(name, pattern)), None)
        if pattern is None:
            unmatched.append(name)
        else:
            groups[pattern].append(vector)
    problems = [f"{pattern!r} has the rate {rate}" for pattern, rate in rates.items() if not 0 <= rate < math.inf]
    if problems:
        problems[-1] += ", expected finite numbers of at least 0"
    for pattern in (pattern for pattern, group in groups.items() if not group):
        hidden = any(fnmatchcase(name, pattern) for name in vectors)
        problems.append(
            f"{pattern!r} matches only vectors that earlier patterns match; write it before them"
            if hidden
            else f"{pattern!r} matches no vector"
        )
    if unmatched:
        problems.append(f'no pattern matches {", ".join(unmatched)}; add one, such as "*"')
    if problems:
        known = f"; the vectors are {', '.join(vectors)}" if any("matches no vector" in p for p in problems) else ""
        raise VectorFitError(f"rates: {'; '.join(problems)}{known}")
    return [{"params": group, "lr": rates[pattern], "name": pattern} for pattern, group in groups.items()]
