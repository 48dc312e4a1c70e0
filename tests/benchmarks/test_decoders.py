"""The decoders' benchmark: its arithmetic is what a model takes, and its data and methods go together."""

import json

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

import vectorfit as vf
from benchmarks import decoders
from vectorfit import VectorFitConfig, VectorFitError
from vectorfit.record import injection_of

TINY = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("storage", ["float32", "bf16"])
def test_the_arithmetic_is_what_a_model_takes(storage):
    expected = decoders.arithmetic(TINY, 4.0, storage)
    own = dict(TINY)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(own.pop("model_type"), **own))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    vf.inject(model, VectorFitConfig(factors=storage))
    layers = injection_of(model).layers.values()
    factors = sum(layer._buffers[name].nbytes for layer in layers for name in ("U", "Vh"))
    assert expected["weights"] == weights
    assert expected["factors"] == factors
    trained = sum(vector.numel() for vector in vf.vector_parameters(model).values())
    assert expected["vectors and AdamW"] == decoders.ADAMW * trained


def test_every_method_trains_a_decoder_on_the_problems(monkeypatch, tmp_path):
    (tmp_path / "gsm8k").mkdir()
    rows = [{"question": f"How much is {n} and {n + 1}?", "answer": f"It is {2 * n + 1}."} for n in range(400)]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("VECTORFIT_DATA", str(tmp_path))
    monkeypatch.setattr(decoders, "ROWS", {name: row for name, row in decoders.ROWS.items() if row[2] == "none"})
    monkeypatch.setattr(decoders, "SMALL", {**decoders.SMALL, "num_hidden_layers": 1})
    tokens = decoders.tokenized(decoders.problems())
    assert tokens.shape[1] == decoders.LENGTH
    found = decoders.table("Gemma", tokens, 2, 2)
    assert [row[1] for row in found] == list(decoders.ROWS)
    assert all(float(row[4]) < float(row[3]) for row in found)


def test_missing_problems_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VECTORFIT_DATA", str(tmp_path))
    with pytest.raises(VectorFitError, match=r"train.jsonl: cannot be read .*set VECTORFIT_DATA"):
        decoders.problems()
