"""Many jobs at once on Ray, one for each subject: the flags, the workers, how each job ended.

What a worker does is its own: `vf_dreambooth.fleet_worker` trains, and the evaluator's scores.
"""

import argparse
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vectorfit import VectorFitError

RETRIES = 3
ANSWERS_WITHIN = 10  # seconds


@dataclass(frozen=True)
class Outcome:
    """How a subject's job ended: "found finished", "failed" or what was done; about it, such as a reason or a loss."""

    name: str
    state: str
    about: str
    worker: int = 0  # its process


class Job(Protocol):
    """What a worker is given: it goes to another process, and has the name of its subject."""

    @property
    def name(self) -> str: ...


class Worker(Protocol):
    """A class of workers. Its instances live in processes of their own, and take what is given and their threads.

    `work` returns how a job ended. It returns "failed" for what the user can mend. It raises other errors, and then the
    job is tried again. It does a job that was begun before to its end, and a finished one not again.
    """

    def work(self, job: Any) -> Outcome: ...


def add_flags(command: argparse.ArgumentParser, at_once: str) -> None:
    """Adds the flags of Ray and of the workers. `at_once` says what they do: trainings."""
    command.add_argument("--address", help="of a Ray cluster, or auto; by default Ray runs on this machine alone")
    command.add_argument("--workers", type=int, default=2, help=f"{at_once} at once (default 2)")
    command.add_argument("--gpus", type=float, help="of a worker, such as 0.5; by default 1 where there is a GPU")
    command.add_argument("--cpus", type=float, default=1, help="cores of a worker (default 1)")
    command.add_argument(
        "--retries", type=int, default=RETRIES, help=f"of a subject whose worker died or failed (default {RETRIES})"
    )


def require_numbers(arguments: Any) -> None:
    """Raises VectorFitError for numbers of workers and retries out of range."""
    for name in ("workers", "retries"):
        if getattr(arguments, name) < (name == "workers"):
            raise VectorFitError(
                f"--{name}: got {getattr(arguments, name)}, expected at least {int(name == 'workers')}"
            )


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


def actors(ray: Any, worker: type[Worker], given: Sequence[Any], count: int, arguments: Any) -> list[Any]:
    """The workers, each with its share of the machine, none more than there are jobs."""
    import torch

    gpus = arguments.gpus if arguments.gpus is not None else float(torch.cuda.is_available())
    kind = ray.remote(num_cpus=arguments.cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=arguments.retries)(
        worker
    )
    threads = max(1, int(arguments.cpus))
    return [kind.remote(*given, threads) for _ in range(min(arguments.workers, count))]


def outcomes(ray: Any, workers: Sequence[Any], jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Gives the jobs to the workers, and yields how each ended, as they end.

    Ray restarts a worker that died and gives it the job again. Ray's own pool of actors is not used: it drops a worker
    whose job was given up, and leaves out the jobs that wait when it has dropped all.
    """
    waiting, running = deque(jobs), dict[Any, tuple[Job, Any]]()
    for worker in workers:
        _hand_out(waiting, worker, running)
    while running:
        (ended, *_), _ = ray.wait(list(running))
        job, worker = running.pop(ended)
        _hand_out(waiting, worker, running)
        try:
            outcome = ray.get(ended)
        except ray.exceptions.RayError as error:  # it was tried as often as it may be
            lines = str(error).strip().splitlines() or [type(error).__name__]
            outcome = Outcome(job.name, "failed", f"{type(error).__name__}: {lines[-1].strip()}")
        yield outcome


def _hand_out(waiting: deque[Job], worker: Any, running: dict[Any, tuple[Job, Any]]) -> None:
    """Gives a worker the next job, if there is one."""
    if waiting:
        job = waiting.popleft()
        running[worker.work.options(retry_exceptions=True).remote(job)] = job, worker


def work_through(jobs: Sequence[Job], worker: type[Worker], given: Sequence[Any], arguments: Any) -> list[Outcome]:
    """Does all jobs on Ray, under a progress bar that names the failed ones. `given` goes to every worker.

    Raises:
        VectorFitError: as `start` does.
    """
    from tqdm import tqdm

    ray = start(arguments.address, arguments.workers, arguments.cpus)
    found: list[Outcome] = []
    try:
        with tqdm(total=len(jobs), unit="subject", file=sys.stderr) as bar:
            for outcome in outcomes(ray, actors(ray, worker, given, len(jobs), arguments), jobs):
                found.append(outcome)
                bar.update()
                if outcome.state == "failed":
                    bar.write(f"{outcome.name}: {outcome.about}", file=sys.stderr)
    finally:
        ray.shutdown()
    return found


def summary(found: Sequence[Outcome]) -> list[str]:
    """A table of how the subjects ended, failed ones last with their reason."""
    ordered = sorted(found, key=lambda outcome: (outcome.state == "failed", outcome.name))
    width = max((len(outcome.name) for outcome in found), default=7)
    rows = [f"{outcome.name:{width}}  {outcome.state:14}  {outcome.about}" for outcome in ordered]
    states = [outcome.state for outcome in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states), reverse=True))
    return [*rows, f"{len(found)} subjects: {counts}"]


def raise_failed(found: Sequence[Outcome]) -> None:
    """Raises VectorFitError with the names of the failed subjects, if there are any."""
    failed = sorted(outcome.name for outcome in found if outcome.state == "failed")
    if failed:
        raise VectorFitError(f"{len(failed)} of {len(found)} subjects failed: {', '.join(failed)}")
