"""The table of tasks compares alike: trials, rates, and what a row says."""

import pytest

from benchmarks.tasks_table import SETUPS, TRIED, Entry, Row, named, rows_of
from vf_training import methods


def test_every_method_has_as_many_trials_and_they_differ():
    entries = [entry for setup in SETUPS.values() for entry in setup.entries]
    tuned = {entry.tuned_as or entry.method for entry in entries}
    assert tuned <= TRIED.keys() <= set(methods.names(methods.TASKS))
    assert {len(trials) for trials in TRIED.values()} == {5}
    assert all(len({named(rates) for rates in trials}) == 5 for trials in TRIED.values())


def test_freezing_is_compared_at_equal_rates():
    for entry in (entry for setup in SETUPS.values() for entry in setup.entries if entry.method == "vectorfit"):
        assert entry.tuned_as == "no_avf"
    assert Entry("vectorfit", strength="relative").name == "vectorfit-relative"


def run(recipe, metric, seconds=1.0, **scores):
    return {"recipe": recipe, "metric": metric, "scores": scores, "train_rows": 1000, "epochs": 5, "seconds": seconds}


def test_a_task_with_two_classes_has_a_row_by_threshold_and_one_without():
    groups = [
        {"method": "vectorfit", "runs": [run("cola", "matthews", matthews=m, auc=a) for m, a in ((10, 60), (14, 62))]},
        {"method": "lora 2", "runs": [run("cola", "matthews", matthews=20, auc=61)]},
    ]
    by_matthews, by_auc = rows_of(groups)
    assert by_matthews.cells(["lora 2", "vectorfit", "full"]) == ["**20.00**", "12.00 ± 2.83", ""]
    assert by_auc.cells(["lora 2", "vectorfit"]) == ["**61.00**", "**61.00 ± 1.41**"]
    assert by_matthews.beside() == "- cola (matthews): below lora 2 -8.00; above none"
    (only,) = rows_of([{"method": "full", "runs": [run("stsb", "pearson", pearson=80.0, spearman=79.0)]}])
    assert only == Row("stsb (pearson)", "1,000 x 5", {"full": [80.0]})
    assert only.mean("full") == pytest.approx(80)
