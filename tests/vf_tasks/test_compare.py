"""Runs side by side: what counts as one group, means and spreads, tables and figures."""

import json
import statistics

import pytest

from vectorfit import VectorFitError
from vf_tasks.compare import HEADER, ablation, groups, pareto, row, table
from vf_training.runs import RunFolder


@pytest.fixture
def write(tmp_path):
    """Writes a result: write(method, seed, score, **settings of its recipe)."""

    def write_one(method, seed, score, size=0, epochs=3.0, holdout=None, **settings):
        run = RunFolder(tmp_path / f"{method}{size}-{seed}-{len(list(tmp_path.iterdir()))}")
        run.path.mkdir()
        recipe = {"name": "rte", "models": ["/somewhere/m"], "epochs": epochs, **settings}
        content = {
            "schema_version": 1,
            "recipe": "rte",
            "model": "/somewhere/microsoft/m",
            "epochs": epochs,
            "train_rows": 2000,
            "tiny": False,
            "method": method,
            "size": size,
            "seed": seed,
            "metric": "accuracy",
            "score": score,
            "scores": {"accuracy": score, "f1": score / 2},
            "learning_rate": 1e-3,
            "parameters": 0 if method == "head" else 1000 + size,
            "head_parameters": 5,
            "percent_parameters": 0.0 if method == "head" else 0.5,
            "efficiency": None if method == "head" else 2 * score,
            "seconds_per_epoch": 10.0 + seed,
            "peak_memory": 2**30,
            "file_bytes": 4096,
            "settings": {"recipe": recipe, "holdout": holdout, "data": f"data-{seed}", "seed": seed},
        }
        (run.path / "result.json").write_text(json.dumps(content))
        return run

    return write_one


def test_runs_that_differ_in_seed_and_place_of_the_data_are_one_group(write):
    ((title, found),) = groups([write("vectorfit", seed, score) for seed, score in ((0, 60.0), (1, 63.0))]).items()
    assert title == "rte · microsoft/m · 3 epochs · 2,000 rows"
    (group,) = found
    assert group.mean() == 61.5
    assert group.spread == pytest.approx(statistics.stdev([60, 63]))
    assert group.mean("seconds_per_epoch") == 10.5


def test_groups_are_in_the_registrys_order_and_sizes_apart(write):
    shuffled = (("full", 0), ("lora", 8), ("vectorfit", 0), ("lora", 2))
    runs = [write(method, 0, 1.0, size=size) for method, size in shuffled]
    (found,) = groups(runs).values()
    assert [group.label for group in found] == ["vectorfit", "lora 2", "lora 8", "full"]
    assert [group.spread for group in found] == [0.0] * 4


def test_the_two_strengths_of_freezing_are_apart_and_the_papers_stands_for_the_method(write):
    runs = [write("vectorfit", 0, 60.0), write("vectorfit", 0, 62.0, avf_strength="relative"), write("no_avf", 0, 58.0)]
    runs += [write("no_avf", 1, 58.0)]
    (found,) = groups(runs).values()
    assert [group.label for group in found] == ["vectorfit", "vectorfit relative", "no_avf"]
    assert len(ablation("t", found).axes[0].patches) == 2


def test_the_tuned_rates_are_shown(write):
    runs = [write("vectorfit", 0, 60.0, bias_lr=1e-4), write("lora", 0, 60.0, bias_lr=1e-4), write("sigma", 0, 60.0)]
    (found,) = groups(runs).values()
    assert {group.label: group.rate for group in found} == {
        "vectorfit": "0.001, biases 0.0001",
        "sigma": "0.001",
        "lora": "0.001",
    }


def test_another_length_or_held_out_rows_make_another_table(write):
    tables = groups([write("sigma", 0, 1.0), write("sigma", 0, 1.0, epochs=0.5), write("sigma", 0, 1.0, holdout=50)])
    assert len(tables) == 3
    assert sum("0.5 epochs" in title for title in tables) == sum("50 held out" in title for title in tables) == 1


def test_no_mean_is_taken_over_other_settings_or_the_same_seed_twice(write):
    with pytest.raises(VectorFitError, match=r"sigma with batch_size = 8, but in .* it is 4"):
        groups([write("sigma", 0, 1.0, batch_size=4), write("sigma", 1, 1.0, batch_size=8)])
    with pytest.raises(VectorFitError, match="a second run of sigma with seed 0"):
        groups([write("sigma", 0, 1.0), write("sigma", 0, 2.0)])


def test_a_table_has_a_line_for_each_group_with_mean_and_spread(write):
    runs = [write("vectorfit", 0, 60.0), write("vectorfit", 1, 63.0), write("head", 0, 40.0)]
    (found,) = groups(runs).values()
    cells = [dict(zip(HEADER, row(group), strict=True)) for group in found]
    assert cells[0]["score"] == "61.50 ± 2.12"
    assert cells[0]["all scores"] == "accuracy 61.50, f1 30.75"
    assert (cells[0]["seeds"], cells[0]["efficiency"], cells[0]["peak GiB"]) == ("2", "123", "1.00")
    assert (cells[1]["score"], cells[1]["efficiency"]) == ("40.00", "")
    lines = table("title", found).splitlines()
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {len(HEADER) + 1}
    assert sum(line.startswith("| ") for line in lines) == 1 + len(found)


def test_the_figures_show_what_there_is(write):
    scores = {"vectorfit": 60.0, "sigma": 50.0, "lora": 55.0, "head": 40.0}
    runs = [write(method, 0, score, size=2 * (method == "lora")) for method, score in scores.items()]
    (found,) = groups(runs).values()
    labels = [text.get_text() for text in pareto("t", found).legends[0].get_texts()]
    assert labels == ["vectorfit", "sigma", "lora 2"]  # a head alone trains no share of the model
    figure = ablation("t", found)
    bars = {round(bar.get_height()) for bar in figure.axes[0].patches}
    assert bars == {60, 50}
    low, high = figure.axes[0].get_ylim()
    assert 0 <= low < 50
    assert high > 60
    assert ablation("t", [group for group in found if group.method != "sigma"]) is None
