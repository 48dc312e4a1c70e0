"""`python -m vf_training analyze RUN`: figures and numbers of what a training changed."""

import sys
from collections.abc import Sequence

from .command_line import Parser, read
from .commands import status_of

PROG = "python -m vf_training"
EXAMPLES = ("{prog} analyze runs/dog", "{prog} analyze runs/tasks/cola/vectorfit-0")


def build_parser(prog: str = PROG) -> Parser:
    parser = Parser(prog, description=__doc__, examples=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    analyze = commands.add_parser("analyze", help="training strength, frozen vectors, spectrum and shift of the change")
    analyze.add_argument("run", help="a run folder, or a subject file")
    analyze.add_argument("--output_dir", help="the folder to write to; by default analysis/ in the run folder")
    analyze.add_argument("--base", help="the base's weights (a .safetensors file or a folder), to compare with --full")
    analyze.add_argument("--full", help="the weights after full fine-tuning, in the same form as --base")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command; returns the exit status."""

    def write() -> None:
        flags = read(build_parser(prog), arguments)
        from .analysis import analyze

        for path in analyze(flags.run, flags.output_dir, flags.base, flags.full):
            print(path)

    return status_of(write, prefix="vf_training")


def run(prog: str = PROG) -> None:
    """The console script."""
    sys.exit(main(prog=prog))


if __name__ == "__main__":
    run()
