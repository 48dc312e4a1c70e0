"""Serves the page on this machine."""

import argparse
import importlib.util
import os
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

from . import access, page
from .address import AUTH, LOOPBACK
from .gallery import Gallery
from .generation import Generator
from .jobs import Jobs
from .picture_files import routes
from .subjects import Library

LARGEST_UPLOAD = "25mb"  # of one file
BACKGROUND_SECONDS = 1.0  # how often the background tasks run


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


def serve(flags: argparse.Namespace) -> None:
    """Serves the page as the command's flags say, until the program ends."""
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
