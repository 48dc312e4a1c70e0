"""Tiny models and rows of every recipe."""

import pytest
import torch

from vf_tasks import recipe as recipes
from vf_tasks.data import read
from vf_tasks.recipe import TINY
from vf_tasks.run import KINDS
from vf_tasks.tiny import write_data, write_model


@pytest.fixture
def prepared(tmp_path):
    """A recipe on its tiny model and rows: prepared(name, **changes) gives recipe, task, rows, model, head's paths."""

    def prepare(name, **changes):
        recipe = recipes.read(name).changed(**{**TINY, **changes})
        for part, write in (("model", write_model), ("data", write_data)):
            (tmp_path / "tiny" / part).mkdir(parents=True)
            write(recipe, tmp_path / "tiny" / part)
        own = recipe.changed(models=(str(tmp_path / "tiny" / "model"),))
        task, rows = KINDS[own.kind](own), read(own, str(tmp_path / "tiny" / "data"))
        task.prepare(rows)
        return own, task, rows, *task.load(own.model, torch.float32)

    return prepare
