"""Trainings. Each runs in its own process and continues when the browser or the app is closed.

The state of a training is in files under the root: ROOT/.jobs/NAME.json with the output beside it, the photos in
ROOT/photos/NAME/, and the run folder ROOT/NAME. A restarted app reads them again.
"""

import json
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from filelock import FileLock

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_training.runs import RunFolder

from .pace import SAMPLES, Pace, phase_of
from .photo_edits import PhotoEdit, store
from .subjects import PHOTOS, RESERVED_FOLDERS, slug

SCRIPT = "train_dreambooth_vectorfit"
MIN_PHOTOS, MAX_PHOTOS = 3, 10
MAX_WAITING = 20
TAIL = 16_384  # bytes of a process's output that are read
ENDED = "It ended before it was finished: someone or the system ended its process, perhaps for lack of memory."
QUEUED, RUNNING, STOPPING, STOPPED, FINISHED, FAILED = "queued", "running", "stopping", "stopped", "finished", "failed"


@dataclass
class Job:
    """The record of a training. Its state follows from this record, its process and its run folder."""

    name: str
    arguments: list[str]  # of the training script, without the two folders
    queued_at: float  # seconds since the epoch
    waiting: bool = True
    pid: int | None = None
    process_began: float = 0.0  # distinguishes the process from a later one with the same pid
    stop: bool = False

    def process(self) -> psutil.Process | None:
        """The running process; None if it has ended."""
        try:
            process = psutil.Process(self.pid) if self.pid else None
            if process is None or abs(process.create_time() - self.process_began) > 1:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.Error:
            return None


@dataclass(frozen=True)
class Status:
    """The progress of a training. `eta` is in seconds, None if it is not known yet."""

    name: str
    state: str
    step: int
    steps: int | None
    loss: float | None
    eta: float | None
    message: str  # why it failed
    samples: Path | None  # the newest sample grid
    phase: str = ""  # of a running one
    detail: str = ""  # how far the phase is, if its own steps are counted
    checkpoint: int | None = None  # the step that resuming continues from
    ahead: int = 0  # trainings that come before a waiting one


class Jobs:
    """The trainings under a root. One runs at a time; the others wait in the order they were added.

    `before_start` is called before a training's process starts: it may free the memory that the training will need.
    """

    def __init__(self, root: Path, before_start: Callable[[], None] = lambda: None) -> None:
        self.root, self.folder, self.before_start = root, root / ".jobs", before_start
        self._children: list[subprocess.Popen] = []
        self._finished: dict[str, tuple[int, Status]] = {}
        self._pace: dict[str, Pace] = defaultdict(Pace)  # of every running training

    def _lock(self) -> FileLock:
        """The lock that two apps on one root share."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def _write(self, job: Job) -> None:
        write_atomically(self.folder / f"{job.name}.json", (json.dumps(asdict(job), indent=1) + "\n").encode())

    def all(self) -> list[Job]:
        """Every training that was added here, the oldest first."""
        # A child that has ended stays a zombie until it is polled.
        self._children = [child for child in self._children if child.poll() is None]
        jobs = []
        for file in self.folder.glob("*.json"):
            try:
                job = Job(**json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            jobs.append(job)
        return sorted(jobs, key=lambda job: job.queued_at)

    def find(self, name: str) -> Job:
        """A training by name. Raises VectorFitError if there is none."""
        for job in self.all():
            if job.name == name:
                return job
        raise VectorFitError(f"no training is called {name!r}; there are: {', '.join(j.name for j in self.all())}")

    def add(self, photos: Sequence[Path], name: str, arguments: Sequence[str], edits: Sequence[PhotoEdit] = ()) -> Job:
        """Copies the photos, queues a training, and starts it if no other training runs.

        `arguments` are those of the training script, without the two folders. `edits` are squares and captions, one
        per photo; without any the photos stay as they are.

        Raises:
            VectorFitError: there are too few or too many photos, a photo is unreadable, or the queue is full.
        """
        if not MIN_PHOTOS <= len(photos) <= MAX_PHOTOS:
            raise VectorFitError(f"got {len(photos)} photos; expected {MIN_PHOTOS} to {MAX_PHOTOS} of one subject")
        # Encoding takes seconds, so it is done before locking.
        temporary = self.root / PHOTOS / f".{secrets.token_hex(8)}"
        try:
            store(photos, edits or [PhotoEdit()] * len(photos), temporary)
            with self._lock():
                waiting = sum(job.waiting for job in self.all())
                if waiting >= MAX_WAITING:
                    raise VectorFitError(
                        f"{waiting} trainings are waiting, which is the limit; try again when some have finished"
                    )
                job = Job(self._free_name(slug(name)), list(arguments), time.time())
                temporary.rename(self.root / PHOTOS / job.name)
                self._write(job)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.start_next()
        return self.find(job.name)

    def _free_name(self, name: str) -> str:
        taken = {job.name for job in self.all()} | RESERVED_FOLDERS
        taken |= {path.name for path in [*self.root.glob("*"), *(self.root / PHOTOS).glob("*")]}
        numbers = (f"{name}-{number}" for number in range(2, 10**6))
        return name if name not in taken else next(other for other in numbers if other not in taken)

    def stop(self, name: str) -> None:
        """Stops a training after its current step, with a checkpoint; removes a waiting one from the queue.

        Before its first step a training ends at once. A training that is stopping or has ended gets no signal: a second
        signal would interrupt the writing of the checkpoint.
        """
        with self._lock():
            job = self.find(name)
            if self.status(job).state not in (QUEUED, RUNNING):
                return
            process = job.process()
            job.waiting, job.stop = False, True
            self._write(job)
            if process is not None:
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    process.send_signal(signal.SIGTERM)

    def resume(self, name: str) -> None:
        """Queues a stopped or failed training again; it continues from its newest checkpoint.

        Raises:
            VectorFitError: the training runs, waits, or has finished.
        """
        with self._lock():
            state = self.status(self.find(name)).state
            if state not in (STOPPED, FAILED):
                raise VectorFitError(f"{name} is {state}; only a stopped or failed training can be resumed")
            job = self.find(name)
            job.waiting, job.stop, job.pid, job.queued_at = True, False, None, time.time()
            self._write(job)
        self.start_next()

    def remove(self, name: str) -> None:
        """Removes a training that does not run, with its photos and its run folder.

        Raises:
            VectorFitError: it runs or waits.
        """
        with self._lock():
            if self.status(self.find(name)).state in (QUEUED, RUNNING, STOPPING):
                raise VectorFitError(f"{name} is not finished; stop it first")
            self._finished.pop(name, None)
            for folder in (self.root / name, self.root / PHOTOS / name):
                shutil.rmtree(folder, ignore_errors=True)
            for file in (self.folder / f"{name}.json", self.output(name)):
                file.unlink(missing_ok=True)

    def rename(self, name: str, new: str) -> None:
        """Gives a run another name, with its photos and its record.

        Raises:
            VectorFitError: the name is taken, or it is being trained.
        """
        with self._lock():
            if new != self._free_name(new):
                raise VectorFitError(f"{new} exists already; choose another name")
            jobs = {job.name: job for job in self.all()}
            if name in jobs and self.status(jobs[name]).state in (QUEUED, RUNNING, STOPPING):
                raise VectorFitError(f"{name} is being trained; wait until it is finished")
            for folder in (self.root, self.root / PHOTOS):
                if (folder / name).exists():
                    (folder / name).rename(folder / new)
            if name in jobs:
                self._write(replace(jobs[name], name=new))
                if self.output(name).exists():
                    self.output(name).rename(self.output(new))
                (self.folder / f"{name}.json").unlink()

    def losses(self, name: str) -> list[float]:
        """The loss of every step so far."""
        try:
            entries = RunFolder(self.root / name).read_log()
        except VectorFitError:
            return []
        return [entry["loss"] for entry in entries if isinstance(entry.get("loss"), float)]

    def seconds_per_step(self, base: str) -> float | None:
        """How long a step took in the finished trainings on a base, with all around it; None if there is none."""
        found = []
        for job in self.all():
            try:
                recorded = RunFolder(self.root / job.name).read_config()
            except VectorFitError:
                continue
            steps = recorded.get("settings", {}).get("max_train_steps")
            if recorded.get("base", {}).get("name") == base and "seconds" in recorded and steps:
                found.append(recorded["seconds"] / steps)
        return statistics.median(found) if found else None

    def start_next(self) -> None:
        """Starts the next training in the queue, if none runs."""
        with self._lock():
            jobs = self.all()
            if any(job.process() for job in jobs):
                return
            for job in (job for job in jobs if job.waiting):
                job.waiting = False
                try:
                    self._start(job)
                    return
                except Exception as error:  # one failed start must not block the queue
                    self.output(job.name).write_text(f"error: it could not be started ({error})\n", encoding="utf-8")
                    self._write(job)

    def _start(self, job: Job) -> None:
        run = RunFolder(self.root / job.name)
        if run.config.exists():
            arguments = [f"--resume_from_checkpoint={run.path}"]
        else:
            photos = self.root / PHOTOS / job.name
            arguments = [f"--instance_dir={photos}", f"--output_dir={run.path}", *job.arguments]
        self.before_start()
        with self.output(job.name).open("wb") as output:
            # Its own session: a signal from the app's terminal does not reach the training.
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
        """The file with the process's output."""
        return self.folder / f"{name}.log"

    def status(self, job: Job) -> Status:
        """The progress of a training, from its process and its run folder."""
        run = RunFolder(self.root / job.name)
        config_time = run.config.stat().st_mtime_ns if run.config.exists() else 0
        cached = self._finished.get(job.name)
        if cached and cached[0] == config_time:
            return cached[1]
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
        output = _tail(self.output(job.name))
        phase, detail = phase_of(output, run, step, steps) if running else ("", "")
        checkpoints = run.checkpoints()
        status = Status(
            job.name,
            state,
            step,
            steps,
            log[-1]["loss"] if log else None,
            self._eta(job.name, phase, step, recorded.get("settings", {})) if state == RUNNING else None,
            _why_it_failed(output) if state == FAILED else "",
            next(reversed(run.sample_grids()), None),
            phase,
            detail,
            max(checkpoints) if checkpoints else None,
            self._ahead(job) if state == QUEUED else 0,
        )
        if state == FINISHED:  # every open page asks for it every second
            self._finished[job.name] = config_time, status
        return status

    def _ahead(self, job: Job) -> int:
        """The trainings that come before a waiting one, with the one that runs."""
        return sum(
            (other.waiting and other.queued_at < job.queued_at) or other.process() is not None for other in self.all()
        )

    def _eta(self, name: str, phase: str, step: int, settings: dict) -> float | None:
        """Seconds left, at the pace of the last minute of training and with the sample grids that will be drawn."""
        pace, steps, every = self._pace[name], settings.get("max_train_steps"), settings.get("checkpointing_steps")
        pace.observe(phase, step)
        if not steps:
            return None
        grids = -(-steps // every) - step // every if every else 0
        return pace.left(step, steps, grids - (phase == SAMPLES and grids > 0))


def _tail(output: Path) -> str:
    """The end of a process's output; empty if there is none."""
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _why_it_failed(output: str) -> str:
    """The errors that the training script printed, or that its process was ended."""
    errors = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    return "\n".join(errors) or ENDED
