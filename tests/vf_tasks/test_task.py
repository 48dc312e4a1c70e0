"""What the kinds of task share: rows, classes, heads, and what a model writes."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from transformers import BatchEncoding, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.layers import VectorFitLayer
from vf_tasks.data import Split
from vf_tasks.recipe import TINY, read
from vf_tasks.task import Rows, class_id, class_ids, written
from vf_tasks.text_classification import TextClassification
from vf_tasks.tiny import write_model


def test_numbers_that_are_names_of_classes_stay_apart():
    assert [class_id(value, ("1", "2", "3")) for value in ("1", 2, "3")] == [0, 1, 2]
    assert [class_id(value, ("no", "yes")) for value in ("yes", 1, "0")] == [1, 1, 0]
    for value, labels in (("0", ("1", "2")), (2, ("no", "yes")), ("-1", ("no", "yes")), ("maybe", ("no", "yes"))):
        with pytest.raises(ValueError, match=str(value)):
            class_id(value, labels)


def test_a_column_of_classes_is_refused_with_the_row_of_the_first_stranger():
    split = Split([{"label": value} for value in ("yes", "no", "yes", "maybe")], "train.tsv")
    assert class_ids(Split(split.rows[:3], "train.tsv"), "label", ("no", "yes")) == [1, 0, 1]
    with pytest.raises(VectorFitError, match=r"train\.tsv: row 4 has the label 'maybe', expected one of no, yes"):
        class_ids(split, "label", ("no", "yes"))


def test_a_wrong_number_of_columns_is_refused():
    with pytest.raises(VectorFitError, match="input_columns: got none, expected 1 or 2"):
        TextClassification(read("cola").changed(input_columns=()))


def test_rows_are_made_into_examples_when_they_are_asked_for_by_the_recipes_names():
    class Echo:
        recipe = read("cola").changed(input_columns=("sentence|text",), target_column="label")
        asked = 0

        def example(self, row, training):
            self.asked += 1
            return row, training

    task = Echo()
    rows = Rows(task, Split([{"text": "a", "label": 1, "more": 2}, {"text": "b", "label": 0, "more": 3}], "x"), True)
    assert (len(rows), task.asked) == (2, 0)
    assert rows[1] == ({"sentence|text": "b", "label": 0}, True)
    assert task.asked == 1


HEADS = {
    "cola": {"pooler", "classifier"},
    "squad": {"qa_outputs"},
    "cifar10": {"classifier"},
    "xsum": set(),
    "gsm8k": set(),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_what_the_pretrained_model_lacks(prepared, name):
    _own, _task, _rows, model, head = prepared(name)
    assert set(head) == HEADS[name]
    assert set(head) <= dict(model.named_modules()).keys()


@pytest.mark.parametrize("used", [True, False])
def test_a_pooler_that_pretraining_never_used_is_part_of_the_head(tmp_path, used):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    recipe = read("rte").changed(**TINY)
    write_model(recipe, tmp_path)  # for its tokenizer
    model = BertModel(BertConfig(vocab_size=400, **sizes))
    if used:
        torch.nn.init.normal_(model.pooler.dense.bias, std=1e-3)
    model.save_pretrained(tmp_path)
    _, head = TextClassification(recipe).load(str(tmp_path), torch.float32)
    assert head == (("classifier",) if used else ("classifier", "bert.pooler"))


@pytest.mark.parametrize("name", ["xsum", "gsm8k"])
def test_what_is_written_depends_on_the_prompt_alone_not_on_the_batch(prepared, tmp_path, name):
    _own, task, rows, model, _ = prepared(name)
    examples = task.examples(rows.train, training=False)
    texts = []
    for size in (1, 5):
        arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=size, use_cpu=True, report_to="none")
        trainer = Trainer(model.train(), arguments, data_collator=task.collator)
        texts.append(written(trainer, task, examples, max_new_tokens=4, do_sample=False))
        assert model.training
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(rows.train)


class Words:
    """A tokenizer of numbers: what is written can be read as token ids."""

    def pad(self, examples, return_tensors):
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
