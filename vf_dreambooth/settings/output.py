"""What a run leaves behind, and whom it reports to."""

import math
from dataclasses import dataclass
from pathlib import Path

from vf_dreambooth import trackers
from vf_dreambooth.default_runs import free_folder
from vf_training.options import at_least, not_with, option

GROUP = "output"


@dataclass(frozen=True)
class OutputSettings:
    """The flags under "output"."""

    output_dir: str | None = option(
        None,
        "run folder; by default runs/FOLDER, numbered where that exists",
        group=GROUP,
        infer=lambda config, _: str(free_folder(Path("runs") / Path(config.instance_data_dir).resolve().name)),
        shapes_result=False,
    )
    checkpointing_steps: int | None = option(
        None,
        "steps between checkpoints and sample grids; by default a quarter of the steps",
        group=GROUP,
        checks=(at_least(1),),
        infer=lambda config, _: max(1, math.ceil(config.max_train_steps / 4)),
        depends_on=("max_train_steps",),
        shapes_result=False,
    )
    checkpoints_total_limit: int = option(
        3, "how many of the newest checkpoints are kept", group=GROUP, checks=(at_least(1),), shapes_result=False
    )
    select: bool = option(
        False,
        "at the end, let the evaluator pick the best of the kept checkpoints and its strength as the subject file "
        "(vectorfit eval select)",
        group=GROUP,
        shapes_result=False,
    )
    num_validation_images: int = option(
        4,
        "images per prompt in a sample grid; with 0 there are no grids",
        group=GROUP,
        checks=(at_least(0),),
        shapes_result=False,
    )
    validation_prompt: str | None = option(
        None, "one more prompt for the sample grids", group=GROUP, shapes_result=False
    )
    validation_prompts: str | None = option(
        None,
        "text file with the prompts of the sample grids, one a line (# starts a comment), instead of the usual four",
        group=GROUP,
        conflict=not_with("num_validation_images", 0, "there are no grids with --num_validation_images 0"),
        shapes_result=False,
    )
    validation_data_dir: str | None = option(
        None,
        "folder with further photos of the subject, which are not trained on: their loss, at fixed noise, is logged "
        "with every checkpoint; it rises where a training goes on for too long",
        group=GROUP,
        shapes_result=False,
    )
    report_to: str | None = option(
        None, "experiment tracker, by accelerate's name", group=GROUP, choices=trackers.NAMES, shapes_result=False
    )
