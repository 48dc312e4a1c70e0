"""Experiment trackers: which there are, and what a run sends them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vectorfit import VectorFitError

from . import network

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL import Image

PROJECT = "vectorfit-dreambooth"


@dataclass(frozen=True)
class Service:
    """A tracker of accelerate's: its package, and of one with a server the address and how to go on without it.

    Attributes:
        address: of the server; the environment variable `address_variable` replaces it.
        offline: arguments with which it keeps everything on this machine; empty where it cannot.
        later: what to do with what was kept.
    """

    package: str
    address: str = ""
    address_variable: str = ""
    offline: Mapping[str, Any] = field(default_factory=dict)
    later: str = ""

    def server(self) -> str:
        return os.environ.get(self.address_variable, "") or self.address


SERVICES = {
    "tensorboard": Service("tensorboard"),
    "wandb": Service("wandb", "https://api.wandb.ai", "WANDB_BASE_URL", {"mode": "offline"}, "send it with wandb sync"),
    "comet_ml": Service(
        "comet_ml",
        "https://www.comet.com",
        "COMET_URL_OVERRIDE",
        {"online": False},
        "send it with comet upload",
    ),
    "swanlab": Service(
        "swanlab", "https://api.swanlab.cn", "SWANLAB_API_HOST", {"mode": "offline"}, "send it with swanlab sync"
    ),
    "clearml": Service("clearml", "https://api.clear.ml", "CLEARML_API_HOST"),
    "mlflow": Service("mlflow", address_variable="MLFLOW_TRACKING_URI"),  # without an address it writes a local folder
    "aim": Service("aim"),
    "dvclive": Service("dvclive"),
    "trackio": Service("trackio"),
}
NAMES = tuple(SERVICES)


def check(name: str) -> None:
    """Raises VectorFitError for a tracker that is not installed, or whose server must answer and does not."""
    service = SERVICES[name]
    if importlib.util.find_spec(service.package) is None:
        raise VectorFitError(f"--report_to: {name} is not installed; pip install {service.package.replace('_', '-')}")
    server = service.server()
    if urlsplit(server).scheme in ("http", "https") and not service.offline and not network.answers(server):
        where = f" (set {service.address_variable} to another address)" if service.address_variable else ""
        raise VectorFitError(f"--report_to: {name}'s server {server} does not answer{where}; or leave --report_to out")


def start(accelerator: Accelerator, name: str, run: Path, settings: Mapping[str, Any]) -> None:
    """Starts a tracker for a run, on this machine alone where its server does not answer.

    Raises:
        VectorFitError: the tracker refuses, for instance because nobody is logged in.
    """
    service, arguments = SERVICES[name], {}
    if service.offline and not network.answers(service.server()):
        arguments = dict(service.offline)
        accelerator.print(f"tracker      {name}: {service.server()} does not answer, kept here; {service.later}")
    if name == "wandb":
        arguments |= {"name": run.resolve().name, "dir": str(run)}
    project = name if name == "tensorboard" else PROJECT  # tensorboard's is a folder in the run folder
    given = {key: value for key, value in settings.items() if value is not None}
    run.mkdir(parents=True, exist_ok=True)
    try:
        accelerator.init_trackers(project, given, {name: arguments})
    except Exception as error:  # each tracker has its own errors
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VectorFitError(f"--report_to: {name} does not start ({first_line}); mend that or leave it out") from error


def send_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to the run's trackers; those that accelerate gives no pictures to are passed over."""
    import numpy as np  # not needed to name the trackers

    pixels = np.asarray(picture.convert("RGB"))
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
        elif tracker.name in ("aim", "clearml"):  # which take one picture a name
            tracker.log_images({name: pixels}, step=step)
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: [pixels]}, step=step)
