"""The comparison of steps: its arithmetic, the other commit's code, and what a process of it measures."""

import subprocess

import pytest

import train_dreambooth_vectorfit as script
from benchmarks import step_speed


def test_a_row_has_the_medians_their_ratio_and_the_goal():
    assert step_speed.row("no", [(2.0, 1.0), (3.0, 1.5), (2.6, 2.0)]) == [
        *("no", "2.600", "1.500", "1.73", "1.30 to 2.00", "met")
    ]
    assert step_speed.row("bf16", [(1.2, 1.0)])[-1] == "missed"


@pytest.mark.skipif(not (step_speed.ROOT / ".git").exists(), reason="not a clone")
def test_the_other_commits_code_is_there_and_gone_afterwards():
    def worktrees() -> str:
        command = ["git", "worktree", "list"]
        return subprocess.run(command, cwd=step_speed.ROOT, check=True, capture_output=True, text=True).stdout

    before = worktrees()
    with step_speed.checked_out("HEAD") as tree:
        assert (tree / "train_dreambooth_vectorfit.py").exists()
        assert str(tree) in worktrees()
    assert worktrees() == before
    assert not tree.exists()


def test_the_steps_after_the_warm_up_are_timed(monkeypatch):
    given = []

    def main(flags):
        given.extend(flags)
        for step in range(step_speed.STEPS):
            script.Loop.update(step)

    monkeypatch.setattr(script.Loop, "update", lambda step: step)
    monkeypatch.setattr(script, "main", main)
    monkeypatch.setattr(step_speed.sys, "path", list(step_speed.sys.path))
    seconds = step_speed.seconds_of_steps(step_speed.ROOT, "no")
    assert len(seconds) == step_speed.STEPS - step_speed.WARM_UP
    assert min(seconds) >= 0
    assert given[given.index("--mixed_precision") + 1] == "no"
