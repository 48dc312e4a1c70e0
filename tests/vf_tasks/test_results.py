"""RUN/result.json: what is in it, and what is no result."""

import json
from types import SimpleNamespace

import pytest

from vectorfit import VectorFitError
from vf_tasks.results import RESULT, Cost, find, flat, read_result, write_result
from vf_training.runs import RunFolder

SETTINGS = {
    "recipe": {"name": "rte", "models": ("m",), "budget": "0.3M", "learning_rate": 1e-3, "epochs": 4},
    "method": "lora",
    "seed": 3,
    "tiny": True,
}


def write(folder, score=50.0, parameters=30):
    counts = {"parameters": parameters, "head_parameters": 7, "base_parameters": 1200}
    trained = SimpleNamespace(counts=counts, method=SimpleNamespace(name="lora"), size=2)
    scores = {"accuracy": score, "f1": 10.0}
    write_result(RunFolder(folder), SETTINGS, trained, scores, Cost(60.0, 4.0, 2**30, 123), 8, 16)
    return RunFolder(folder)


def test_the_first_score_stands_for_the_run_and_shares_are_of_the_pretrained_model(tmp_path):
    result = read_result(write(tmp_path / "run"))
    assert (result["metric"], result["score"], result["scores"]["f1"]) == ("accuracy", 50.0, 10.0)
    assert result["percent_parameters"] == pytest.approx(100 * 30 / 1200)
    assert result["efficiency"] == pytest.approx(50 / (100 * 30 / 1200))
    assert result["seconds_per_epoch"] == 15
    assert (result["recipe"], result["model"], result["method"], result["seed"]) == ("rte", "m", "lora", 3)


def test_where_nothing_but_the_head_is_trained_there_is_no_efficiency(tmp_path):
    result = read_result(write(tmp_path / "run", parameters=0))
    assert (result["percent_parameters"], result["efficiency"]) == (0, None)


def test_settings_are_flat_and_as_json_has_them():
    once = flat(SETTINGS)
    assert once == flat(json.loads(json.dumps(SETTINGS)))
    assert (once["name"], once["models"], once["method"]) == ("rte", ["m"], "lora")
    assert "recipe" not in once


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "None, expected 1"),
        ('{"schema_version": 2}', "2, expected 1"),
        ('{"schema_version": 1, "recipe": "rte"}', "expected 1"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_path(tmp_path, content, message):
    (tmp_path / RESULT).write_text(content)
    with pytest.raises(VectorFitError, match=rf"result\.json.*{message}"):
        read_result(RunFolder(tmp_path))


def test_runs_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/deep/er", "a", "b/c"):
        write(tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    found = [run.path.relative_to(tmp_path).as_posix() for run in find([str(tmp_path)])]
    assert found == ["a", "b/c", "b/deep/er"]
    assert [run.path.name for run in find([str(tmp_path / "b" / "c"), str(tmp_path / "a")])] == ["c", "a"]


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    write(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for place in ("empty", "missing"):
        with pytest.raises(VectorFitError, match=f"{place}.*no finished run of a task"):
            find([str(tmp_path / "run"), str(tmp_path / place)])
    with pytest.raises(VectorFitError, match="finished run of a task"):
        read_result(RunFolder(tmp_path / "empty"))
