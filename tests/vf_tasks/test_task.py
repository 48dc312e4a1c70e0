"""What the kinds of task have in common: writing answers."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel

import vectorfit as vf
from vectorfit.layers import VectorFitLayer
from vf_tasks.task import written


class Words:
    """A tokenizer of numbers: what is written can be read as token ids."""

    def pad(self, examples, return_tensors):
        from transformers import BatchEncoding

        ids = torch.tensor(examples["input_ids"])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def batch_decode(self, tokens, skip_special_tokens):
        return [" ".join(map(str, row)) for row in tokens.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_writing_composes_every_weight_at_most_once_and_leaves_the_model_as_it_was(dtype, monkeypatch):
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 39
    model = GPT2LMHeadModel(config).to(dtype)
    vf.inject(model)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.normal_(std=0.3)
    model.train()
    trainer = SimpleNamespace(
        accelerator=Accelerator(cpu=True), model=model, args=SimpleNamespace(per_device_eval_batch_size=2)
    )
    options = {"max_new_tokens": 6, "do_sample": False}
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with torch.no_grad():
        expected = model.eval().generate(torch.tensor(prompts), **options)[:, 3:]
    model.train()
    composed, plain = [], VectorFitLayer.composed
    monkeypatch.setattr(VectorFitLayer, "composed", lambda layer: composed.append(layer) or plain(layer))
    answers = written(trainer, SimpleNamespace(processor=Words()), prompts, **options)
    assert answers == [" ".join(map(str, row)) for row in expected.tolist()]
    assert len(composed) == (8 if dtype == torch.float32 else 0)
    assert model.training
    assert not any(module.merged for module in model.modules() if isinstance(module, VectorFitLayer))
