"""Tiny models and rows: small, always the same, and like the real ones in form."""

import hashlib

import pytest
from transformers import AutoConfig

from vectorfit import VectorFitError
from vf_tasks import recipe as recipes
from vf_tasks.data import read
from vf_tasks.recipe import TINY
from vf_tasks.tiny import ROWS, write_data, write_model

# A recipe of every kind, and every architecture.
NAMES = ("cola", "stsb", "squad", "squad_v2", "xsum", "mnist", "gsm8k", "math")
TYPES = {"microsoft/deberta-v3-base": "deberta-v2", "facebook/bart-large": "bart", "google/gemma-7b": "gemma"}
TYPES |= {"google/vit-base-patch16-224": "vit", "meta-llama/Meta-Llama-3-8B": "llama"}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("model", TYPES)
def test_a_model_is_of_the_recipes_architecture_and_small_and_always_the_same(tmp_path, model):
    name = next(name for name in recipes.names() if model in recipes.read(name).models)
    recipe = recipes.read(name).changed(models=(model,))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_model(recipe, tmp_path / folder)
    assert AutoConfig.from_pretrained(tmp_path / "one").model_type == TYPES[model]
    assert (tmp_path / "one" / "model.safetensors").stat().st_size < 200_000
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_every_recipes_models_have_a_tiny_one():
    assert {model for name in recipes.names() for model in recipes.read(name).models} == set(TYPES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_read_as_the_real_ones_are(tmp_path, name):
    recipe = recipes.read(name)
    write_data(recipe, tmp_path)
    rows = read(recipe, str(tmp_path))
    assert set(rows.tests) == set(recipe.test_splits)
    for split in (rows.train, *rows.tests.values()):
        assert len(split) == ROWS
        for column in (*recipe.input_columns, recipe.target_column):
            assert len(split.column(column)) == ROWS


@pytest.mark.parametrize("name", ["cola", "mnli", "squad_v2"])
def test_every_kind_of_answer_is_there(tmp_path, name):
    recipe = recipes.read(name)
    write_data(recipe, tmp_path)
    targets = read(recipe, str(tmp_path)).train.column(recipe.target_column)
    if recipe.labels:
        assert set(targets) == set(recipe.labels)
    else:
        assert {bool(answer["text"]) for answer in targets} == {True, False}


@pytest.mark.parametrize("name", recipes.names())
def test_its_settings_fit_every_recipe(name):
    changed = recipes.read(name).changed(**TINY)
    assert changed.table_steps == recipes.read(name).table_steps


def test_a_model_without_a_tiny_one_is_refused_with_those_that_have(tmp_path):
    with pytest.raises(VectorFitError, match=r"'other', expected one of deberta-v3, bart, vit, gemma, llama"):
        write_model(recipes.read("cola").changed(models=("other",)), tmp_path)
