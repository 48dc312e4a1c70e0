"""`vf-app`: opens the page on this machine."""

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve
from vf_dreambooth.engine import Engine
from vf_training.commands import exit_clearly

from . import page
from .drawing import Studio
from .jobs import Jobs
from .subjects import Library

LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUEUE = 20  # requests that may wait
LARGEST_UPLOAD = "25mb"  # of one file
TICK = 1.0  # seconds between two looks whether the next training can start
AUTH = "VECTORFIT_APP_AUTH"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vf-app", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders (default runs)")
    parser.add_argument(
        "--base_model",
        default="auto",
        help="what new subjects are trained on: starter, a diffusers folder, a checkpoint or a hub id; auto takes "
        "Stable Diffusion v1.4 where there is an accelerator and starter where there is none",
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
    parser.add_argument("--inbrowser", action="store_true", help="open the browser too")
    return parser


def credentials(given: str | None) -> tuple[str, str] | None:
    """User and password. Raises VectorFitError where one of them is missing."""
    text = given or os.environ.get(AUTH)
    if not text:
        return None
    user, _, password = text.partition(":")
    if not (user and password):
        raise VectorFitError("--auth: expected USER:PASSWORD")
    return user, password


def shipped() -> Path | None:
    """The folder of trained subjects that come along: beside this package in a checkout, or installed."""
    places = [Path(__file__).resolve().parents[1] / "examples" / "trained"]
    spec = importlib.util.find_spec("vf_examples")
    if spec is not None and spec.submodule_search_locations:
        places += [Path(place) / "trained" for place in spec.submodule_search_locations]
    return next((place for place in places if place.is_dir()), None)


def make(runs: Path, base_model: str, scratch: Path) -> tuple[gr.Blocks, Studio, Jobs]:
    """The page with what it stands on, not yet launched.

    Raises:
        VectorFitError: the base model or the folder cannot be had.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VectorFitError(f"--runs {runs}: cannot be made ({error.strerror}); name another folder") from error
    base = resolve(base_model)
    studio = Studio(Library(runs, shipped(), (base, resolve("starter"))), Engine(), base, scratch)
    jobs = Jobs(runs)
    built = page.build(studio, jobs)
    built.queue(max_size=QUEUE, api_open=False)  # open, a plain POST would pass the queue by
    return built, studio, jobs


def launch(built: gr.Blocks, **choices: Any) -> str:
    """Serves the page as it is meant to be served, and returns its address; `choices` are gradio's own."""
    _, local, _ = built.launch(
        max_file_size=LARGEST_UPLOAD,
        allowed_paths=[],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=["api"],
        **page.look(),
        **choices,
    )
    return str(local)


def keep_house(studio: Studio, jobs: Jobs, ended: threading.Event) -> None:
    """Starts the trainings that wait and removes old files, whether a browser is open or not."""
    while not ended.wait(TICK):
        try:
            jobs.tick()
            studio.sweep_old()
        except Exception as error:  # the next look may go well, and nobody else looks
            print(f"warning: {type(error).__name__}: {error}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(arguments)
    auth = credentials(flags.auth)
    if auth is None and (flags.share or flags.server_name not in LOOPBACK):
        where = "through a public tunnel" if flags.share else f"on {flags.server_name}"
        print(
            f"warning: this page is served {where} without a password: whoever reaches it can draw, train, and read "
            f"every subject in {flags.runs}; give --auth USER:PASSWORD or {AUTH}",
            file=sys.stderr,
        )
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="vectorfit-app-") as scratch:
        built, studio, jobs = make(flags.runs, flags.base_model, Path(scratch))
        threading.Thread(target=keep_house, args=(studio, jobs, ended), daemon=True).start()
        try:
            launch(
                built,
                server_name=flags.server_name,
                server_port=flags.server_port,
                share=flags.share,
                auth=auth,
                inbrowser=flags.inbrowser,
            )
        finally:
            ended.set()


def run() -> None:
    """The console script. What ends it, ends it in order: the pictures on the disk go."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    exit_clearly(main, "trainings that were begun go on; the same command finds them again")


if __name__ == "__main__":
    run()
