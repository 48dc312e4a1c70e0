"""Many jobs on Ray: each ends once, is tried again when it fails, and what fails in the end is named."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from vectorfit import VectorFitError
from vf_training import fleet
from vf_training.fleet import Outcome


@dataclass(frozen=True)
class Task:
    """A job of the tests: it fails `failures` times before it ends, by an error or by the death of its worker."""

    name: str
    notes: Path
    failures: int = 0
    dies: bool = False


class Clerk:
    """Notes every try of a job in a file."""

    def __init__(self, threads=0):
        self.threads = threads

    def work(self, job):
        with job.notes.open("a") as file:
            file.write(f"{job.name}\n")
        if job.notes.read_text().split().count(job.name) <= job.failures:
            if job.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"{job.name} did not work")
        return Outcome(job.name, "noted", f"{self.threads} threads", os.getpid())


def test_the_summary_names_failed_subjects_last_with_their_reason():
    found = [
        Outcome("b", "failed", "no photos"),
        Outcome("a", "trained", "loss 0.1"),
        Outcome("c", "found finished", ""),
    ]
    lines = fleet.summary(found)
    assert [line.split()[0] for line in lines[:3]] == ["a", "c", "b"]
    assert lines[2].endswith("no photos")
    assert lines[3] == "3 subjects: 1 trained, 1 found finished, 1 failed"
    with pytest.raises(VectorFitError, match="1 of 3 subjects failed: b"):
        fleet.raise_failed(found)
    fleet.raise_failed(found[1:])


def test_numbers_out_of_range_are_refused():
    with pytest.raises(VectorFitError, match="--workers: got 0, expected at least 1"):
        fleet.require_numbers(SimpleNamespace(workers=0, retries=0))
    with pytest.raises(VectorFitError, match="--retries: got -1, expected at least 0"):
        fleet.require_numbers(SimpleNamespace(workers=1, retries=-1))


def test_a_cluster_out_of_reach_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(VectorFitError, match=r"--address: no Ray cluster answers at 127.0.0.1:9"):
        fleet.start("127.0.0.1:9", 2, 1)


@pytest.mark.slow
def test_failed_jobs_are_tried_again_and_no_other_job_is_lost(tmp_path, capsys):
    pytest.importorskip("ray")
    notes = tmp_path / "notes"
    jobs = [Task(f"plain{number}", notes) for number in range(4)]
    jobs[1:1] = [
        Task("fails", notes, failures=2),
        Task("dies", notes, failures=2, dies=True),
        Task("hopeless", notes, failures=9),
        Task("deadly", notes, failures=9, dies=True),
        Task("deadly-too", notes, failures=9, dies=True),
    ]
    arguments = SimpleNamespace(address=None, workers=2, gpus=0, cpus=1, retries=2)
    found = {outcome.name: outcome for outcome in fleet.work_through(jobs, Clerk, [], arguments)}
    assert set(found) == {job.name for job in jobs}
    states = {name: outcome.state for name, outcome in found.items()}
    assert {name for name, state in states.items() if state == "failed"} == {"hopeless", "deadly", "deadly-too"}
    assert found["hopeless"].about.endswith("ValueError: hopeless did not work")
    assert found["plain3"].about == "1 threads"
    tries = notes.read_text().split()
    assert {name: tries.count(name) for name in found} == {job.name: min(job.failures, 2) + 1 for job in jobs}
    assert "hopeless: RayTaskError(ValueError)" in capsys.readouterr().err
