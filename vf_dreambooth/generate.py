"""The command that generates images of a subject: `python -m vf_dreambooth.generate --vectors RUN --prompt "..."`."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from vf_training.command_line import Parser, read
from vf_training.commands import exit_clearly, hide_loading_bars
from vf_training.problems import Problems

EXAMPLES = (
    'python -m vf_dreambooth.generate --vectors runs/dog --prompt "a photo of sks dog in the snow"',
    'python -m vf_dreambooth.generate --vectors owner/name --prompt "sks dog on the beach" --num 8 --strength 0.8',
    'python -m vf_dreambooth.generate --vectors runs/dog --prompt "a photo of sks dog" --compare',
    'python -m vf_dreambooth.generate --vectors runs/dog runs/cat --prompt "a photo of {} in the snow" --out snow',
)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("vf_dreambooth.generate", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "--vectors",
        required=True,
        type=Path,
        nargs="+",
        help="run folder, subject file or hub id owner/name; several subjects are drawn in mixed batches",
    )
    parser.add_argument(
        "--prompt",
        required=True,
        action="append",
        dest="prompts",
        help="prompt; may be given several times; {} stands for each subject's trigger phrase",
    )
    parser.add_argument("--num", type=int, default=4, help="images per prompt (default 4)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first image; the next images use the next seeds (default 0)"
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, help="0 is the base model, 1 the trained subject (default 1)"
    )
    parser.add_argument("--negative_prompt", default="", help="what the images should not show")
    parser.add_argument("--num_inference_steps", type=int, help="denoising steps; by default the base's preset")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance; by default the base's preset")
    parser.add_argument("--base_model", help="by default the one the subject was trained on")
    parser.add_argument(
        "--out", type=Path, help="folder for the images; by default generated/ in the run folder, or here"
    )
    parser.add_argument(
        "--compare", action="store_true", help="also write comparison.png: photos, base and personalised"
    )
    return parser


def _check(flags: argparse.Namespace) -> None:
    problems = Problems()
    if flags.num < 1:
        problems.messages.append(f"--num: got {flags.num}, expected at least 1")
    if not math.isfinite(flags.strength):
        problems.messages.append(f"--strength: got {flags.strength}, expected a number")
    if flags.num_inference_steps is not None and flags.num_inference_steps < 1:
        problems.messages.append(f"--num_inference_steps: got {flags.num_inference_steps}, expected at least 1")
    if len(flags.vectors) > 1 and flags.compare:
        problems.messages.append(f"--compare: shows one subject beside its base, got {len(flags.vectors)} subjects")
    if len(set(flags.vectors)) < len(flags.vectors):
        problems.messages.append("--vectors: a subject is given twice; --num draws more pictures of it")
    problems.raise_all()


def main(arguments: Sequence[str] | None = None) -> None:
    flags = read(build_parser(), arguments)
    _check(flags)
    from .subject_pictures import write_pictures

    hide_loading_bars()
    for path in write_pictures(flags):
        print(path)


def run() -> None:
    """The console script."""
    exit_clearly(main)


if __name__ == "__main__":
    run()
