"""`python -m vectorfit analyze RUN`: what a training did, as figures and numbers."""

import argparse
import sys
from collections.abc import Sequence

from .errors import VectorFitError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="vectorfit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    analyze = commands.add_parser("analyze", help="training strength, frozen vectors, spectrum and shift of the change")
    analyze.add_argument("run", help="a run folder, or a delta file")
    analyze.add_argument("--output_dir", help="where to; by default analysis/ in the run folder")
    analyze.add_argument("--base", help="the base's weights (a .safetensors file or a folder), to compare with --full")
    analyze.add_argument("--full", help="the weights of full fine-tuning, as --base")
    flags = parser.parse_args(arguments)
    try:
        from .analysis import analyze as run_analysis

        for path in run_analysis(flags.run, flags.output_dir, flags.base, flags.full):
            print(path)
    except VectorFitError as error:
        print(f"vectorfit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
