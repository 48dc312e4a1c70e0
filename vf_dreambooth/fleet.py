"""Trains many subjects on Ray, on this machine or a cluster: `python -m vf_dreambooth.fleet photos/ --out runs/`."""

import argparse
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from vectorfit import VectorFitError
from vf_training.command_line import Parser
from vf_training.commands import exit_clearly

from .fleet_worker import Outcome, Storage, Subject, Worker

EXAMPLES = (
    "python -m vf_dreambooth.fleet photos/ --out runs/ -- --base_model starter",
    "python -m vf_dreambooth.fleet s3://bucket/photos --out s3://bucket/runs --address auto --gpus 0.5 --workers 16",
)
RETRIES = 3
ANSWERS_WITHIN = 10  # seconds


def parser() -> Parser:
    """The command's own flags; those after `--` are the training's."""
    command = Parser(
        "vf_dreambooth.fleet",
        usage="python -m vf_dreambooth.fleet PHOTOS --out RUNS [flags] [-- flags of the training]",
        description="Trains the subjects in the folders of PHOTOS, many at once, on Ray.",
        examples=EXAMPLES,
    )
    command.add_argument("photos", metavar="PHOTOS", help="a folder of subjects' folders, or its URL for fsspec")
    command.add_argument("--out", required=True, metavar="RUNS", help="the folder for the runs, or its URL")
    command.add_argument("--address", help="of a Ray cluster, or auto; by default Ray runs on this machine alone")
    command.add_argument("--workers", type=int, default=2, help="trainings at once (default 2)")
    command.add_argument("--gpus", type=float, help="of a worker, such as 0.5; by default 1 where there is a GPU")
    command.add_argument("--cpus", type=float, default=1, help="cores of a worker (default 1)")
    command.add_argument(
        "--retries", type=int, default=RETRIES, help=f"of a subject whose worker died or failed (default {RETRIES})"
    )
    return command


def subjects_in(photos: str, out: str) -> list[Subject]:
    """The subjects in a folder of folders, by name.

    Raises:
        VectorFitError: the folder cannot be read, or has no folders.
    """
    names = Storage(photos).folders()
    if not names:
        raise VectorFitError(f"{photos}: has no folders, expected one for each subject")
    return [Subject(name, f"{photos.rstrip('/')}/{name}", f"{out.rstrip('/')}/{name}") for name in names]


def start(address: str | None, workers: int, cpus: float) -> Any:
    """Ray, on this machine or on the cluster at an address.

    Raises:
        VectorFitError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise VectorFitError("the fleet needs Ray: pip install 'vectorfit[cluster]'") from error
    if address is not None:
        _require_answer(address)
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {"num_cpus": max(os.cpu_count() or 1, int(workers * cpus + 0.999))}
    else:
        options = {"address": address, "log_to_driver": False}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise VectorFitError(f"--address: no Ray cluster answers at {address or 'this machine'} ({first})") from error
    return ray


def _require_answer(address: str) -> None:
    """Raises VectorFitError where nothing listens at HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:  # such as auto
        return
    try:
        socket.create_connection((host, int(port)), ANSWERS_WITHIN).close()
    except (OSError, ValueError) as error:
        raise VectorFitError(f"--address: no Ray cluster answers at {address} ({error}); expected HOST:PORT") from error


def outcomes(ray: Any, subjects: Sequence[Subject], flags: Sequence[str], arguments: Any) -> Iterator[Outcome]:
    """Trains the subjects in a pool of workers, and yields how each ended, as they end.

    Ray restarts a worker that died and gives it the subject again, which goes on from its newest checkpoint.
    """
    pool, running = ray.util.ActorPool(actors(ray, flags, len(subjects), arguments)), {}

    def submit(worker: Any, subject: Subject) -> Any:
        reference = worker.train.remote(subject)
        running[reference] = subject.name
        return reference

    for subject in subjects:
        pool.submit(submit, subject)
    while pool.has_next():
        try:
            outcome = pool.get_next_unordered()
        except ray.exceptions.RayError:
            outcome = _lost(ray, running)
        done = next(reference for reference, name in running.items() if name == outcome.name)
        del running[done]
        yield outcome


def actors(ray: Any, flags: Sequence[str], count: int, arguments: Any) -> list[Any]:
    """The workers, each with its share of the machine, none more than there are subjects."""
    import torch

    gpus = arguments.gpus if arguments.gpus is not None else float(torch.cuda.is_available())
    kind = ray.remote(num_cpus=arguments.cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=arguments.retries)(
        Worker
    )
    threads = max(1, int(arguments.cpus))
    return [kind.remote(list(flags), threads) for _ in range(min(arguments.workers, count))]


def _lost(ray: Any, running: dict[Any, str]) -> Outcome:
    """The outcome of a subject that Ray gave up: the first one that is over and has an error."""
    for reference, name in running.items():
        if ray.wait([reference], timeout=0)[0]:
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                return Outcome(name, "failed", f"{type(error).__name__}: {lines[-1].strip()}")
    raise VectorFitError("Ray reports an error of no subject; run the command again, finished subjects are kept")


def summary(found: Sequence[Outcome]) -> list[str]:
    """A table of how the subjects ended, failed ones last with their reason."""
    ordered = sorted(found, key=lambda outcome: (outcome.state == "failed", outcome.name))
    width = max((len(outcome.name) for outcome in found), default=7)
    rows = [f"{outcome.name:{width}}  {outcome.state:14}  {outcome.about}" for outcome in ordered]
    states = [outcome.state for outcome in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states), reverse=True))
    return [*rows, f"{len(found)} subjects: {counts}"]


def train(arguments: Any, flags: Sequence[str]) -> list[Outcome]:
    """Trains all subjects. Raises VectorFitError for what is wrong before the first begins."""
    for name in ("workers", "retries"):
        if getattr(arguments, name) < (name == "workers"):
            raise VectorFitError(
                f"--{name}: got {getattr(arguments, name)}, expected at least {int(name == 'workers')}"
            )
    subjects = subjects_in(arguments.photos, arguments.out)
    Storage(arguments.out).require_writable()
    ray = start(arguments.address, arguments.workers, arguments.cpus)
    found: list[Outcome] = []
    try:
        with tqdm(total=len(subjects), unit="subject", file=sys.stderr) as bar:
            for outcome in outcomes(ray, subjects, flags, arguments):
                found.append(outcome)
                bar.update()
                if outcome.state == "failed":
                    bar.write(f"{outcome.name}: {outcome.about}", file=sys.stderr)
    finally:
        ray.shutdown()
    return found


def main(given: Sequence[str] | None = None) -> None:
    """The command."""
    words = list(sys.argv[1:] if given is None else given)
    cut = words.index("--") if "--" in words else len(words)
    arguments: argparse.Namespace = parser().parse_args(words[:cut])
    found = train(arguments, words[cut + 1 :])
    print(*summary(found), sep="\n")
    failed = [outcome.name for outcome in found if outcome.state == "failed"]
    if failed:
        raise VectorFitError(f"{len(failed)} of {len(found)} subjects failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    exit_clearly(main, interrupted="the same command goes on where it stopped")
