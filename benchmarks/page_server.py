"""The page as a process of its own, and a browser to look at it with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def serve(runs: Path, port: int | None = None) -> tuple[subprocess.Popen, str]:
    """Starts the page on the starter; the process and its address."""
    command = [sys.executable, "-m", "app.command", "--runs", str(runs), "--base_model", "starter"]
    command += ["--server_port", str(port)] if port else []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout or ():
        if "Running on local URL" in line:
            return process, line.split()[-1]
    raise SystemExit(f"error: the page did not start (exit status {process.wait()})")


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium through Playwright, which is not among the requirements: `pip install playwright`."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise SystemExit("error: no Chromium found; install one, or name it in the variable CHROMIUM")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def untrained(examples: Path = ROOT / "examples") -> Path:
    """A shipped folder of photos without a shipped subject; its name is the noun."""
    taught = {file.stem for file in (examples / "trained").glob("*.safetensors")}
    folders = [folder for folder in sorted(examples.iterdir()) if len(list(folder.glob("*.png"))) >= 5]
    return next(folder for folder in folders if folder.name not in taught)
