"""A subject for other tools: `python -m vf_dreambooth.export --to lora RUN`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.export import Export, bake, difference, lora

from .base_models import load
from .cli import exit_clearly
from .pipeline import adapted_models, base_of, subject_file


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vf_dreambooth.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("subject", type=Path, metavar="RUN", help="run folder or subject file")
    parser.add_argument(
        "--to",
        required=True,
        choices=("lora", "diff", "pipeline"),
        help="lora: the best of a rank, an approximation; diff: the exact change (ComfyUI); pipeline: a diffusers "
        "folder with the subject merged in",
    )
    parser.add_argument("--rank", type=int, default=32, help="rank of the LoRA (default 32)")
    parser.add_argument(
        "--naming", choices=("diffusers", "kohya"), default="diffusers", help="names in the LoRA (default diffusers)"
    )
    parser.add_argument(
        "--biases", action="store_true", help="carry the bias deltas in the LoRA too, which diffusers and PEFT read"
    )
    parser.add_argument("--strength", type=float, default=1.0, help="strength to export at (default 1)")
    parser.add_argument("--base_model", help="by default the one the subject was trained on")
    parser.add_argument("--out", type=Path, help="file or folder to write; by default beside the subject file")
    return parser


def _write(export: Export, path: Path, metadata: dict[str, str]) -> None:
    write_atomically(path, save(export.tensors, metadata))
    size = path.stat().st_size
    print(f"{path} ({size:,} bytes): {export.kept:.1%} of ||dW||, {export.biases:.0%} of the biases' change")


def main(arguments: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(arguments)
    file = subject_file(flags.subject)
    base = base_of(flags.subject, flags.base_model)
    names = {
        "lora": f"lora-{flags.naming}-{flags.rank}.safetensors",
        "diff": "diff.safetensors",
        "pipeline": "pipeline",
    }
    out = flags.out or file.parent / names[flags.to]
    if out.exists():
        raise VectorFitError(f"--out: {out} exists; give another place or delete it")
    pipe = load(base)
    models = adapted_models(pipe)
    metadata = vf.load_vectors(models, file, strength=flags.strength)
    kept = {"format": "pt", **{k: v for k, v in metadata.items() if k.startswith("modelspec.")}}
    if flags.to == "lora":
        _write(lora(models, flags.rank, flags.naming, biases=flags.biases), out, kept)
    elif flags.to == "diff":
        _write(difference(models), out, kept)
    else:
        bake(models)
        pipe.save_pretrained(out)
        print(f"{out}: the base with the subject merged in, a diffusers folder")


def run() -> None:
    """The console script."""
    exit_clearly(main)


if __name__ == "__main__":
    run()
