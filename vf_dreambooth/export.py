"""Exports a subject for other tools: the command, `python -m vf_dreambooth.export --to lora RUN`.

The layers' names are in families/.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vectorfit import VectorFitError
from vf_training.command_line import Parser, read
from vf_training.commands import exit_clearly, hide_loading_bars

if TYPE_CHECKING:
    from .base_models import BaseModel

KINDS = ("lora", "diff", "pipeline", "coded")
NAMING = "diffusers"  # of a LoRA, if not another is asked for
EXAMPLES = (
    "python -m vf_dreambooth.export runs/dog --to lora",
    "python -m vf_dreambooth.export runs/dog --to lora --naming kohya --rank 64",
    "python -m vf_dreambooth.export owner/name --to pipeline --out dog-model",
    "python -m vf_dreambooth.export runs/dog --to coded",
)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("vf_dreambooth.export", description=__doc__, examples=EXAMPLES)
    parser.add_argument("subject", type=Path, metavar="RUN", help="run folder, subject file or hub id owner/name")
    parser.add_argument(
        "--to",
        required=True,
        choices=KINDS,
        help="lora: the best approximation of a given rank; diff: the exact change (ComfyUI); pipeline: a diffusers "
        "folder with the subject merged in; coded: a subject file of few bytes, which loads as others do",
    )
    parser.add_argument("--rank", type=int, default=32, help="rank of the LoRA (default 32)")
    parser.add_argument(
        "--naming",
        default=NAMING,
        help=f"tool whose names the LoRA has: diffusers, kohya, onetrainer (default {NAMING})",
    )
    parser.add_argument(
        "--biases", action="store_true", help="include the bias deltas in the LoRA; diffusers and PEFT read them"
    )
    parser.add_argument(
        "--kilobytes", type=int, default=100, help="most thousands of bytes of a coded file (default 100)"
    )
    parser.add_argument("--strength", type=float, default=1.0, help="strength to export at (default 1)")
    parser.add_argument("--base_model", help="by default the one the subject was trained on")
    parser.add_argument("--out", type=Path, help="file or folder to write; by default beside the subject file")
    return parser


@dataclass(frozen=True)
class Kind:
    """What is exported: one of `KINDS`, and of a LoRA its rank, names and whether it carries biases."""

    to: str
    rank: int = 32
    naming: str = NAMING
    biases: bool = False
    kilobytes: int = 100  # of a coded file, at most

    @property
    def file_name(self) -> str:
        names = {
            "lora": f"lora-{self.naming}-{self.rank}.safetensors",
            "diff": "diff.safetensors",
            "coded": "coded.safetensors",
        }
        return names.get(self.to, self.to)


def export(subject: Path, base: "BaseModel", kind: Kind, out: Path, strength: float = 1.0) -> str:
    """Writes a run folder's or subject file's change for other tools, and returns a line on what was written.

    Raises:
        VectorFitError: `out` exists, the subject is damaged or of another base, or the base cannot be loaded.
    """
    from safetensors.torch import save

    from vectorfit import load_vectors
    from vectorfit.atomic import write_atomically
    from vectorfit.coded_file import save_coded
    from vectorfit.export import bake, difference, lora

    from .base_models import load
    from .families import family_of
    from .pipeline import adapted_models, subject_file

    if out.exists():
        raise VectorFitError(f"--out: {out} exists; give another path or delete it")
    pipe = load(base)
    models, family = adapted_models(pipe), family_of(pipe)
    if kind.to == "coded":
        coded = save_coded(models, subject_file(subject), out, strength=strength, most_bytes=1000 * kind.kilobytes)
        size = out.stat().st_size
        return f"{out} ({size:,} bytes): {coded.bits:.1f} bits a number, error of its change {coded.error:.1%}"
    metadata = load_vectors(models, subject_file(subject), strength=strength)
    if kind.to == "pipeline":
        bake(models)
        pipe.save_pretrained(out)
        return f"{out}: the base with the subject merged in, a diffusers folder"
    if kind.to == "lora":
        change = lora(models, kind.rank, family.naming(kind.naming, pipe), biases=kind.biases)
    else:
        naming = family.naming(family.diff_naming, pipe)
        change = difference(models, naming.layer)
    kept = {"format": "pt", **{k: v for k, v in metadata.items() if k.startswith("modelspec.")}}
    write_atomically(out, save(change.tensors, kept))
    size = out.stat().st_size
    return f"{out} ({size:,} bytes): {change.kept:.1%} of ||dW||, {change.biases:.0%} of the biases' change"


def main(arguments: Sequence[str] | None = None) -> None:
    flags = read(build_parser(), arguments)
    from .pipeline import base_of, folder_of

    hide_loading_bars()
    kind = Kind(flags.to, flags.rank, flags.naming, flags.biases, flags.kilobytes)
    out = flags.out or folder_of(flags.subject) / kind.file_name
    print(export(flags.subject, base_of(flags.subject, flags.base_model), kind, out, flags.strength))


def run() -> None:
    """The console script."""
    exit_clearly(main)


if __name__ == "__main__":
    run()
