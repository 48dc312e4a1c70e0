"""The settings of a run that are not in its recipe."""

from dataclasses import dataclass

from vectorfit import VectorFitError
from vf_training import methods
from vf_training.options import at_least, option, problems_of, within

GROUP = "run"
OFFERED = methods.names(methods.TASKS)


@dataclass(frozen=True)
class Options:
    """The settings of a run that are not in its recipe.

    Raises:
        VectorFitError: values out of range, all of them in one message.
    """

    method: str = option(
        "vectorfit",
        "what is trained: " + "; ".join(f"{name}: {methods.find(name).about}" for name in OFFERED),
        group=GROUP,
        choices=OFFERED,
    )
    seed: int = option(
        0, "seed of the new head, the order of rows, and dropout", group=GROUP, checks=(within(0, 2**32 - 1),)
    )
    data: str | None = option(
        None, "a folder, file or zip of TSV, CSV, JSONL, IDX or images; or a hub name", group=GROUP
    )
    output_dir: str | None = option(None, "the run folder; by default runs/tasks/RECIPE/METHOD-SEED", group=GROUP)
    max_train_rows: int | None = option(
        None, "train on N rows only, always the same ones", group=GROUP, checks=(at_least(1),)
    )
    holdout: int | None = option(
        None,
        "score on N training rows that are left out of the training, to choose settings",
        group=GROUP,
        checks=(at_least(1),),
    )
    factors: str = option(
        "auto",
        "how the factors are kept: both in float32, both in bf16, or the square one alone; auto goes by size",
        group=GROUP,
        choices=("auto", "float32", "bf16", "square"),
    )
    quantise: str = option(
        "none",
        "quantise the base: int8 or int4 (in int8's memory) by torchao (extra quantised), nf4 by bitsandbytes",
        group=GROUP,
        choices=("none", "int8", "int4", "nf4"),
    )
    shard: bool = option(
        False, "split the model among the processes (FSDP2), for one that a card cannot hold", group=GROUP
    )
    tiny: bool = option(False, "a tiny model and a few rows, to check that it runs", group=GROUP)

    def __post_init__(self) -> None:
        if problems := problems_of(Options, vars(self)):
            raise VectorFitError("\n".join(problems.values()))
