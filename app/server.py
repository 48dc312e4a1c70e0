"""`vf-app`: serves the page on this machine."""

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

from . import access, page
from .gallery import Gallery
from .generation import Generator
from .jobs import Jobs
from .picture_files import routes
from .subjects import Library

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_UPLOAD = "25mb"  # of one file
BACKGROUND_SECONDS = 1.0  # how often the background tasks run
AUTH = "VECTORFIT_APP_AUTH"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vf-app", description=__doc__, allow_abbrev=False)
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


def credentials(given: str | None) -> tuple[str, str] | None:
    """User and password, from the flag or the environment. Raises VectorFitError if one of them is missing."""
    text = given or os.environ.get(AUTH)
    if not text:
        return None
    user, _, password = text.partition(":")
    if not (user and password):
        raise VectorFitError("--auth: expected USER:PASSWORD")
    return user, password


def shipped() -> Path | None:
    """The folder of trained subjects that VectorFit ships: in the checkout, or in the installed package."""
    folders = [Path(__file__).resolve().parents[1] / "examples" / "trained"]
    spec = importlib.util.find_spec("vf_examples")
    if spec is not None and spec.submodule_search_locations:
        folders += [Path(location) / "trained" for location in spec.submodule_search_locations]
    return next((folder for folder in folders if folder.is_dir()), None)


def build_app(runs: Path, base_model: str, scratch: Path) -> tuple[gr.Blocks, Generator, Jobs]:
    """The page, its generator and its trainings; `launch` serves the page.

    Raises:
        VectorFitError: the base model cannot be found, or the folder cannot be created.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VectorFitError(f"--runs {runs}: cannot be created ({error.strerror}); name another folder") from error
    base = resolve(base_model)
    engine = Engine()
    generator = Generator(Library(runs, shipped(), (base, resolve("starter"))), engine, base, scratch)
    jobs = Jobs(runs, engine.release_when_idle)  # a training and a loaded base may not fit one device
    gallery = Gallery(runs)
    gallery.remove_empty()
    blocks = page.build(generator, jobs, gallery)
    blocks.queue(api_open=False)  # an open API would let a plain POST bypass the queue
    access.limit_places(blocks)
    return blocks, generator, jobs


def launch(blocks: gr.Blocks, gallery: Gallery, host_names: Sequence[str] | None = (), **options: Any) -> str:
    """Serves the page and the pictures of its gallery with our limits, and returns its address.

    It answers to this machine's names and `host_names`, and with None to any name. `options` are options of gradio.
    """
    options["app_kwargs"] = {"routes": routes(gallery)}
    if host_names is not None:
        options["app_kwargs"]["middleware"] = access.known_hosts(list(host_names))
    _, address, _ = blocks.launch(
        max_file_size=LARGEST_UPLOAD,
        allowed_paths=[],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=["api"],
        **page.appearance(),
        **options,
    )
    return str(address)


def run_background_tasks(generator: Generator, jobs: Jobs, stop: threading.Event) -> None:
    """Starts queued trainings and removes old files until `stop` is set. It needs no open browser."""
    while not stop.wait(BACKGROUND_SECONDS):
        try:
            jobs.start_next()
            generator.remove_old_files()
        except Exception as error:  # the next round may succeed, and nothing else does these tasks
            print(f"warning: {type(error).__name__}: {error}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(arguments)
    auth = credentials(flags.auth)
    if auth is None and (flags.share or flags.server_name not in LOOPBACK):
        where = "through a public tunnel" if flags.share else f"on {flags.server_name}"
        print(
            f"warning: this page is served {where} without a password: anyone who reaches it can generate, train, and "
            f"read every subject in {flags.runs}; give --auth USER:PASSWORD or {AUTH}",
            file=sys.stderr,
        )
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="vectorfit-app-") as scratch:
        blocks, generator, jobs = build_app(flags.runs, flags.base_model, Path(scratch))
        threading.Thread(target=run_background_tasks, args=(generator, jobs, stop), daemon=True).start()
        try:
            launch(
                blocks,
                Gallery(flags.runs),
                # Beyond this machine the names are not known.
                None if flags.share or flags.server_name not in LOOPBACK else flags.host_name,
                server_name=flags.server_name,
                server_port=flags.server_port,
                share=flags.share,
                auth=auth,
                inbrowser=flags.inbrowser,
            )
        finally:
            stop.set()


def run() -> None:
    """The console script. SIGTERM ends it as Ctrl-C does, so that the generated files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    exit_clearly(main, "running trainings continue; the same command finds them again")


if __name__ == "__main__":
    run()
