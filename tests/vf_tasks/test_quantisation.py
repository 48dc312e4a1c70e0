"""A task trains on a quantised base."""

import pytest
import torch
from torch import nn

from vectorfit import VectorFitError
from vectorfit.layers import VectorFitQuantised
from vf_tasks.quantisation import quantise
from vf_tasks.run import put_in


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao"), ("int4", "torchao"), ("nf4", "bitsandbytes")])
def test_the_base_is_quantised_but_for_the_head(kind, library, prepared):
    pytest.importorskip(library)
    own, task, rows, model, head = prepared("gsm8k")
    output = model.get_output_embeddings()
    quantise(model, kind, head)
    assert model.get_output_embeddings() is output
    assert output.weight.dtype == torch.float32
    trained = put_in("vectorfit", model, head, own, 8, seed=0)
    layers = [module for module in model.modules() if isinstance(module, VectorFitQuantised)]
    assert len(layers) == len(trained.plan.layers) > 0
    examples = task.examples(rows.train, training=True)
    batch = task.collator([examples[index] for index in range(2)])
    loss = model(**batch).loss
    loss.backward()
    assert all(value.grad.abs().sum() > 0 for value in trained.parameters.values())
    assert trained.counts["base_parameters"] == sum(layer.in_features * layer.out_features for layer in layers) + sum(
        p.numel() for n, p in model.named_parameters() if "proj" not in n
    )


def test_nothing_is_quantised_by_default():
    model = nn.Sequential(nn.Linear(4, 4))
    quantise(model, "none", ())
    assert type(model[0].weight) is nn.Parameter


@pytest.mark.parametrize(("kind", "module"), [("int8", "torchao.quantization"), ("nf4", "bitsandbytes")])
def test_a_missing_library_is_named(kind, module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(VectorFitError, match=f"--quantise {kind}: needs {module.partition('.')[0]}"):
        quantise(nn.Sequential(nn.Linear(4, 4)), kind, ())
