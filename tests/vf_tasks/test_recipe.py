"""Recipes hold what the paper's tables hold, and scale with the run."""

import math

import pytest

from vectorfit import AvfSchedule, VectorFitError
from vf_tasks.recipe import TUNED, names, read
from vf_training import methods

# Tables 7, 9, 11 and 13 as printed: learning rate, epochs, batch size, t_i, t_f, n_f, k.
HYPERPARAMETERS = """
mnli           1e-3  20   32  135000  10000   5  5
sst2           1e-3  30   32   23200   2100  10  5
cola           1e-3  35   32    3000    200   5  5
qqp            1e-3  25   32  125100  11000  10  5
qnli           1e-3  25   32   36000   3200  10  5
rte            1e-3  50   32     800     70  27  5
mrpc           1e-3  50   32    1260    110  27  5
stsb           1e-3  50   32    1900    180  27  5
squad          1e-3  20   16   60700   5500   6  5
squad_v2       1e-3  20   16   90300   8200   6  5
xsum           1e-3  30   64   35070   3100  10  5
cnn_dailymail  1e-3  30   64   31500   4400  10  5
cifar10        1e-3  20  128    3600    300   4  5
gtsrb          1e-3  20  128    1900    170   4  5
mnist          1e-2  20  128    4300    350   4  5
resisc45       1e-2  20  128    2300    200   4  5
"""
TABLE = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in HYPERPARAMETERS.strip().splitlines()}
KEYS = "learning_rate epochs batch_size avf_first_step avf_every avf_num_freezes avf_top_k".split()
GLUE = ("mnli", "sst2", "cola", "qqp", "qnli", "rte", "mrpc", "stsb")
# Tables 8, 10, 12 and Appendix C.4: d of Houlsby and of Pfeiffer, r of LoRA, b(T) of AdaLoRA, d of SVFT.
BUDGETS = {
    **{key: {"1.2M": (32, 64, 8, 576, 2), "0.6M": (16, 32, 4, 288, 2), "0.3M": (8, 16, 2, 144, 2)} for key in GLUE},
    **{key: {"0.08%": (4, 8, 1, 72, 1)} for key in ("squad", "squad_v2")},
    **{key: {"0.16%": (8, 16, 2, 144, 2)} for key in ("xsum", "cnn_dailymail")},
}
PICTURES = ("cifar10", "gtsrb", "mnist", "resisc45")
MODELS = {
    **dict.fromkeys((*GLUE, "squad", "squad_v2"), ("microsoft/deberta-v3-base",)),
    **dict.fromkeys(("xsum", "cnn_dailymail"), ("facebook/bart-large",)),
    **dict.fromkeys(PICTURES, ("google/vit-base-patch16-224",)),
    **dict.fromkeys(("gsm8k", "math"), ("google/gemma-7b", "meta-llama/Meta-Llama-3-8B")),
}


def test_there_is_a_recipe_for_every_data_set():
    assert set(names()) == set(MODELS)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_hyperparameters_are_those_of_the_tables(name):
    recipe = read(name)
    assert [getattr(recipe, key) for key in KEYS] == TABLE[name]
    assert recipe.source.startswith("Table")


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_budgets_are_those_of_the_tables(name):
    kinds = ("houlsby", "pfeiffer", "lora", "adalora", "svft")
    found = {budget: tuple(sizes[kind] for kind in kinds) for budget, sizes in read(name).budgets.items()}
    assert found == BUDGETS[name]


@pytest.mark.parametrize("name", PICTURES)
def test_budgets_for_pictures(name):
    recipe = read(name)
    assert [recipe.size(method) for method in ("lora", "adalora", "svft")] == [2, 144, 2]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_and_what_the_paper_has_no_table_of(name):
    recipe = read(name)
    assert recipe.models == MODELS[name]
    assert (recipe.source == "ours") == (name in ("gsm8k", "math"))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_tables_own_run_keeps_the_tables_steps(name):
    """And the freezings all fall into the run."""
    recipe = read(name)
    own = AvfSchedule(recipe.avf_first_step, recipe.avf_every, recipe.avf_num_freezes)
    for steps in (recipe.table_steps, recipe.table_steps - 1, round(1.01 * recipe.table_steps)):
        assert recipe.schedule(steps) == own
    assert own.first_step + (own.num_freezes - 1) * own.every <= recipe.table_steps


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("ratio", [0.03, 0.5, 4])
def test_steps_of_the_freezing_scale_with_the_run(name, ratio):
    recipe = read(name)
    scaled = recipe.schedule(round(ratio * recipe.table_steps))
    assert scaled.num_freezes == recipe.avf_num_freezes
    assert scaled.first_step == pytest.approx(ratio * recipe.avf_first_step, abs=1.5)
    assert scaled.every == pytest.approx(ratio * recipe.avf_every, abs=1)


def test_steps_that_were_chosen_for_a_run_stay():
    chosen = read("cola").changed(avf_first_step=300)
    assert chosen.schedule(938) == AvfSchedule(300, 20, 5)  # a tenth of the table's run


def test_the_length_of_the_tables_run_stays_when_the_recipe_is_changed():
    recipe = read("cola")
    assert recipe.table_steps == 35 * math.ceil(8551 / 32)
    changed = recipe.changed(epochs=3.0, batch_size=16)
    assert changed.table_steps == recipe.table_steps
    assert changed.schedule(recipe.table_steps // 2).first_step == 1500


@pytest.mark.parametrize("name", ["mnist", "gtsrb"])
def test_digits_and_signs_are_never_mirrored(name):
    recipe = read(name)
    assert recipe.mirror == "never"
    with pytest.raises(VectorFitError, match="another class"):
        recipe.changed(mirror="random")
    assert recipe.changed(epochs=2).mirror == "never"


def test_an_unknown_recipe_is_told_with_the_nearest():
    with pytest.raises(VectorFitError, match=r"'kola'; did you mean cola\?"):
        read("kola")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"epochs": -1}, "epochs: got -1"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "multiple of gradient_accumulation_steps"),
        ({"avf_first_step": 0}, "avf_first_step: got 0"),
        ({"budget": "2M"}, "budget: got '2M', expected 1.2M, 0.6M or 0.3M"),
        ({"labels": ("one",)}, "labels: got one, expected two or more"),
        ({"head_lr": 0.0}, "head_lr: got 0.0, expected more than 0"),
        ({"bias_lr": -1.0}, "bias_lr: got -1.0, expected at least 0"),
        ({"avf_strength": "own"}, "avf_strength: got 'own', expected one of absolute, relative"),
        ({"bias": "some"}, "bias: got 'some', expected one of layers, all"),
        ({"precision": "fp8"}, "precision: got 'fp8', expected one of fp32, bf16, bf16_weights"),
    ],
)
def test_values_out_of_range_are_told(changes, told):
    with pytest.raises(VectorFitError, match=told.replace("(", r"\(")):
        read("cola").changed(**changes)


def test_all_problems_are_told_at_once():
    with pytest.raises(VectorFitError, match=r"(?s)learning_rate.*batch_size.*budget"):
        read("cola").changed(batch_size=0, learning_rate=-1, budget="none")


def test_the_papers_rates_are_for_its_models_and_ours_for_others():
    recipe, tuned = read("rte"), TUNED["text_classification"]
    assert recipe.rates("vectorfit", None) == {"learning_rate": recipe.learning_rate}
    assert recipe.rates("vectorfit", recipe.model) == {"learning_rate": recipe.learning_rate}
    assert recipe.rates("vectorfit", "./minilm") == tuned
    assert recipe.rates("vectorfit", "./minilm", "paper") == {"learning_rate": recipe.learning_rate}
    assert recipe.rates("vectorfit", None, "tuned") == tuned
    assert recipe.rates("sigma", "./minilm") == {"learning_rate": tuned["learning_rate"]}
    # Where no sweep was made, all is the paper's.
    assert read("squad").rates("vectorfit", "./minilm") == {"learning_rate": read("squad").learning_rate}


@pytest.mark.parametrize("method", ["lora", "full", "houlsby"])
def test_no_other_method_takes_vectorfits_rates(method):
    for model in (None, "./minilm"):
        (rate,) = read("rte").rates(method, model).values()
        assert rate < TUNED["text_classification"]["learning_rate"]
        assert model or rate == methods.find(method).rates[methods.TASKS]


def test_wrong_wishes_for_rates_are_told():
    with pytest.raises(VectorFitError, match="rates: got 'best', expected auto, tuned or paper"):
        read("rte").rates("vectorfit", None, "best")
    with pytest.raises(VectorFitError, match="no sweep of ours was made for question_answering"):
        read("squad").rates("vectorfit", None, "tuned")
    with pytest.raises(VectorFitError, match="method: got 'dora'"):
        read("rte").rates("dora", None)
