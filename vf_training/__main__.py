"""`python -m vf_training analyze RUN`: what a training did, as figures and numbers."""

import argparse
import sys
from collections.abc import Sequence

from .commands import status_of


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="vf_training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    analyze = commands.add_parser("analyze", help="training strength, frozen vectors, spectrum and shift of the change")
    analyze.add_argument("run", help="a run folder, or a delta file")
    analyze.add_argument("--output_dir", help="where to; by default analysis/ in the run folder")
    analyze.add_argument("--base", help="the base's weights (a .safetensors file or a folder), to compare with --full")
    analyze.add_argument("--full", help="the weights of full fine-tuning, as --base")
    flags = parser.parse_args(arguments)

    def write() -> None:
        from .analysis import analyze

        for path in analyze(flags.run, flags.output_dir, flags.base, flags.full):
            print(path)

    return status_of(write, prefix="vf_training")


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
