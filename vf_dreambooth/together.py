"""What trains several subjects in one batch must have in common, and what each has for itself.

The loop is in together_loop.py.
"""

from collections.abc import Sequence
from typing import TypeVar

from vf_training import methods

from .config import TrainConfig

Item = TypeVar("Item")


def problems(config: TrainConfig, *, several: bool, num_processes: int) -> list[str]:
    """Why the subjects of a command line cannot be trained in one batch; empty where they can."""
    method = methods.METHODS.get(config.method)  # None if the name is wrong, which is reported separately
    vectors = method is None or (method.trains_vectors and method.config.matrix_pattern.is_diagonal)
    reasons = {
        "one subject alone; give --instance_dir a folder of subject folders": not several,
        f"{num_processes} processes, of which each would train every subject; give --num_processes 1": num_processes
        > 1,
        f"--method {config.method} trains no vectors that rows of a batch could have of their own": not vectors,
        f"--method {config.method} drops singular values at random, the same ones for all": bool(
            method and method.sigma_dropout
        ),
        "--mixed_precision fp16 scales the gradients of all subjects by one factor; give bf16 or no": (
            config.mixed_precision == "fp16"
        ),
        "--compile compiles a model for one subject; leave it out": config.compile,
        "--report_to follows one run at a time; leave it out": bool(config.report_to),
        "--gradient_checkpointing with --aspect_ratio_buckets; leave one of them out": (
            config.gradient_checkpointing and config.aspect_ratio_buckets
        ),
    }
    return [f"--together {config.together}: {reason}" for reason, holds in reasons.items() if holds]


def groups(items: Sequence[Item], size: int) -> list[list[Item]]:
    """The items in their order, `size` in a group; the last group may have fewer."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
