"""Trainings: each a process of its own, which goes on when the browser or the app is closed.

What is known of one is in files under the root: ROOT/.jobs/NAME.json and its output beside it, the photos in
ROOT/photos/NAME/, and the run folder ROOT/NAME. A restarted app finds all of it again.
"""

import json
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock
from PIL import Image

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_dreambooth.photos import open_photo
from vf_training.runs import RunFolder

from .subjects import NO_RUNS, PHOTOS, slug

SCRIPT = "train_dreambooth_vectorfit"
FEWEST_PHOTOS, MOST_PHOTOS = 3, 10
MOST_WAITING = 20
QUEUED, RUNNING, STOPPING, STOPPED, FINISHED, FAILED = "queued", "running", "stopping", "stopped", "finished", "failed"


@dataclass
class Job:
    """What is recorded of a training. Its state follows from this, its process and its run folder."""

    name: str
    arguments: list[str]  # of the training script, without its folders
    queued_at: float  # seconds since the epoch
    waiting: bool = True
    pid: int | None = None
    process_began: float = 0.0  # tells the process from a later one of the same pid
    stop: bool = False

    def process(self) -> psutil.Process | None:
        """The running process; None when it has ended."""
        try:
            process = psutil.Process(self.pid) if self.pid else None
            if process is None or abs(process.create_time() - self.process_began) > 1:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.Error:
            return None


@dataclass(frozen=True)
class Status:
    """How far a training is. `eta` is in seconds, None where nothing tells yet."""

    name: str
    state: str
    step: int
    steps: int | None
    loss: float | None
    eta: float | None
    message: str  # of the process: what it does before the first step, or why it failed
    samples: Path | None  # the newest sample grid


class Jobs:
    """The trainings under a root, one running at a time, the others queued in the order they came in."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / ".jobs"
        self._children: list[subprocess.Popen] = []
        self._finished: dict[str, tuple[int, Status]] = {}
        self._pace: dict[str, tuple[int, float]] = {}  # of each running job: a step, and when it was seen

    def _lock(self) -> FileLock:
        """Two apps on one root take turns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def _write(self, job: Job) -> None:
        write_atomically(self.folder / f"{job.name}.json", (json.dumps(asdict(job), indent=1) + "\n").encode())

    def all(self) -> list[Job]:
        """Every training that was ever asked for here, the oldest first."""
        # An ended child stays a zombie until it is asked for.
        self._children = [child for child in self._children if child.poll() is None]
        found = []
        for file in self.folder.glob("*.json"):
            try:
                job = Job(**json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            found.append(job)
        return sorted(found, key=lambda job: job.queued_at)

    def find(self, name: str) -> Job:
        """A training by name. Raises VectorFitError when there is none."""
        for job in self.all():
            if job.name == name:
                return job
        raise VectorFitError(f"no training is called {name!r}; there are: {', '.join(j.name for j in self.all())}")

    def add(self, photos: Sequence[Path], name: str, arguments: Sequence[str]) -> Job:
        """Queues a training of these photos, which are copied, and starts it if nothing else runs.

        `arguments` are the training script's, but for the two folders.

        Raises:
            VectorFitError: no photo or too many, unreadable ones, or the queue is full.
        """
        if not FEWEST_PHOTOS <= len(photos) <= MOST_PHOTOS:
            raise VectorFitError(f"got {len(photos)} photos; expected {FEWEST_PHOTOS} to {MOST_PHOTOS} of one subject")
        aside = self.root / PHOTOS / f".{secrets.token_hex(8)}"  # encoding takes seconds, so before the lock
        try:
            _store([open_photo(path) for path in photos], aside)
            with self._lock():
                waiting = sum(job.waiting for job in self.all())
                if waiting >= MOST_WAITING:
                    raise VectorFitError(f"{waiting} trainings are waiting, no more fit; try again when some are done")
                job = Job(self._free(slug(name)), list(arguments), time.time())
                aside.rename(self.root / PHOTOS / job.name)
                self._write(job)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.tick()
        return self.find(job.name)

    def _free(self, name: str) -> str:
        taken = {job.name for job in self.all()} | NO_RUNS
        taken |= {path.name for path in [*self.root.glob("*"), *(self.root / PHOTOS).glob("*")]}
        numbers = (f"{name}-{number}" for number in range(2, 10**6))
        return name if name not in taken else next(other for other in numbers if other not in taken)

    def stop(self, name: str) -> None:
        """Ends a training after its running step, which leaves a checkpoint; takes a queued one out of the queue.

        Before its first step it ends at once. Whoever is stopping or has ended is left alone: a second signal would
        end a training in the middle of its checkpoint.
        """
        with self._lock():
            job = self.find(name)
            if self.status(job).state not in (QUEUED, RUNNING):
                return
            process = job.process()
            job.waiting, job.stop = False, True
            self._write(job)
            if process is not None:
                with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                    process.send_signal(signal.SIGTERM)

    def resume(self, name: str) -> None:
        """Queues a stopped or failed training again; it goes on from its newest checkpoint.

        Raises:
            VectorFitError: it runs, waits, or is finished.
        """
        with self._lock():
            state = self.status(self.find(name)).state
            if state not in (STOPPED, FAILED):
                raise VectorFitError(f"{name} is {state}; only what was stopped or failed can be resumed")
            job = self.find(name)
            job.waiting, job.stop, job.pid, job.queued_at = True, False, None, time.time()
            self._write(job)
        self.tick()

    def tick(self) -> None:
        """Starts the next training where none runs."""
        with self._lock():
            jobs = self.all()
            if any(job.process() for job in jobs):
                return
            for job in (job for job in jobs if job.waiting):
                job.waiting = False
                try:
                    self._start(job)
                    return
                except Exception as error:  # whatever it is, the next in the queue must not wait for it
                    self.output(job.name).write_text(f"error: it could not be started ({error})\n", encoding="utf-8")
                    self._write(job)

    def _start(self, job: Job) -> None:
        run = RunFolder(self.root / job.name)
        if run.config.exists():
            arguments = [f"--resume_from_checkpoint={run.path}"]
        else:
            photos = self.root / PHOTOS / job.name
            arguments = [f"--instance_dir={photos}", f"--output_dir={run.path}", *job.arguments]
        with self.output(job.name).open("wb") as output:
            # A session of its own: what ends the app by its terminal does not end the training.
            child = subprocess.Popen(
                [sys.executable, "-m", SCRIPT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        job.pid = child.pid
        job.process_began = psutil.Process(job.pid).create_time()
        self._pace.pop(job.name, None)
        self._write(job)

    def output(self, name: str) -> Path:
        """What the process has printed."""
        return self.folder / f"{name}.log"

    def status(self, job: Job) -> Status:
        """How far a training is, from its process and its run folder."""
        run = RunFolder(self.root / job.name)
        written = run.config.stat().st_mtime_ns if run.config.exists() else 0
        known = self._finished.get(job.name)
        if known and known[0] == written:
            return known[1]
        running = job.process() is not None
        try:
            recorded, log = run.read_config() if run.config.exists() else {}, run.read_log()
        except VectorFitError as error:
            return Status(job.name, FAILED, 0, None, None, None, str(error).replace(str(run.path), job.name), None)
        finished = run.vectors.exists() and "seconds" in recorded
        if running:
            state = STOPPING if job.stop else RUNNING
        else:
            state = QUEUED if job.waiting else FINISHED if finished else STOPPED if job.stop else FAILED
        step = log[-1]["step"] if log else 0
        steps = recorded.get("settings", {}).get("max_train_steps")
        message = _message(self.output(job.name), state) if state == FAILED or (running and not step) else ""
        samples = max((run.path / "samples").glob("step_*.png"), default=None)
        eta = self._eta(job.name, step, steps) if running else None
        status = Status(job.name, state, step, steps, log[-1]["loss"] if log else None, eta, message, samples)
        if state == FINISHED:  # it is asked for every second, by every page that is open
            self._finished[job.name] = written, status
        return status

    def _eta(self, name: str, step: int, steps: int | None) -> float | None:
        """Seconds left at the pace since this app first saw a step of the job."""
        if not step or not steps:
            return None
        first, then = self._pace.setdefault(name, (step, time.monotonic()))
        return None if step == first else (steps - step) * (time.monotonic() - then) / (step - first)


def _store(images: Sequence[Image.Image], folder: Path) -> None:
    """Photos as files of our own naming: upright, and without what cameras write beside the picture."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:02d}.png")


def _message(output: Path, state: str) -> str:
    """The last thing the process said; of a failed one its errors."""
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return "\n".join(errors) if state == FAILED and errors else "".join(lines[-1:])
