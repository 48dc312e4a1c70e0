"""The programs in docs/ run and show what they say they show."""

import pytest

from docs import tutorial_core, tutorial_peft


@pytest.mark.parametrize("tutorial", [tutorial_core, tutorial_peft], ids=["core", "peft"])
def test_a_tutorial_learns_the_second_task_and_keeps_the_first(tutorial, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = tutorial.main()
    assert found["first task, disabled"] > 0.95
    assert found["second task, after"] > 0.65  # a coin has 0.5, the base too
    assert found["second task, loaded"] == found["second task, after"]
    if tutorial is tutorial_core:
        assert found["first task, disabled"] == found["first task"]
        assert found["second task, before"] < 0.6
    else:
        assert found["second task, merged"] == pytest.approx(found["second task, after"], abs=0.005)
