"""`vf-app`: serves the page on this machine."""

import argparse
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vf_training.command_line import Parser, read
from vf_training.commands import exit_clearly, hide_loading_bars

from .address import AUTH, LOOPBACK

PROG = "vf-app"
EXAMPLES = (
    "{prog}",
    "{prog} --runs experiments --base_model starter --inbrowser",
    f"{AUTH}=USER:PASSWORD {{prog}} --server_name 0.0.0.0",
)


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    parser = Parser(prog, description=__doc__, examples=EXAMPLES)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders (default runs)")
    parser.add_argument(
        "--base_model",
        default="auto",
        help="base of new subjects: starter, a diffusers folder, a checkpoint or a hub id; auto is Stable Diffusion "
        "v1.4 on a machine with an accelerator, otherwise starter",
    )
    parser.add_argument(
        "--server_name",
        default=os.environ.get("GRADIO_SERVER_NAME", LOOPBACK[0]),
        help="address to listen on (default 127.0.0.1, this machine alone)",
    )
    parser.add_argument("--server_port", type=int, help="port (default 7860, or the next free one)")
    parser.add_argument("--share", action="store_true", help="open a public tunnel through gradio's servers")
    parser.add_argument(
        "--auth", help=f"USER:PASSWORD that visitors must give; better in the environment variable {AUTH}"
    )
    parser.add_argument(
        "--host_name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that the page answers to on this machine alone, such as that of a proxy; may be repeated",
    )
    parser.add_argument("--inbrowser", action="store_true", help="open the browser too")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> None:
    flags = read(build_parser(prog), arguments)
    from .server import serve

    hide_loading_bars()
    serve(flags)


def run(prog: str = PROG) -> None:
    """The console script. SIGTERM ends it as Ctrl-C does, so that the generated files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    exit_clearly(partial(main, prog=prog), "running trainings continue; the same command finds them again")


if __name__ == "__main__":
    run()
