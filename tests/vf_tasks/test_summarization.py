"""Summaries: what is read, what is learned, and how what is written is scored."""

import pytest
from transformers import Trainer, TrainingArguments

from vectorfit import VectorFitError
from vf_tasks.data import Data, Split
from vf_tasks.metrics import rouge
from vf_tasks.recipe import read
from vf_tasks.summarization import Summarization


def test_an_example_is_the_story_and_its_summary_each_cut_to_its_length(prepared):
    own, task, rows, _, _ = prepared("xsum", max_length=20, max_target_length=6)
    story, summary = (rows.train[2][rows.train.name(name)] for name in (own.input_columns[0], own.target_column))
    example = task.examples(rows.train, training=True)[2]
    assert example["input_ids"] == task.processor(story, truncation=True, max_length=20)["input_ids"]
    assert len(example["input_ids"]) == 20
    assert example["labels"] == task.processor(summary, truncation=True, max_length=6)["input_ids"]
    assert task.examples(rows.train, training=False)[2] == example["input_ids"]


def test_padding_of_summaries_is_not_learned(prepared):
    _own, task, rows, model, _ = prepared("xsum", max_target_length=12)
    examples = [task.examples(rows.train, training=True)[index] for index in (0, 12)]
    lengths = [len(example["labels"]) for example in examples]
    batch = task.collator([dict(example) for example in examples])
    assert (batch["labels"] != -100).sum(1).tolist() == lengths
    assert batch["decoder_input_ids"][:, 0].eq(model.config.decoder_start_token_id).all()


def test_scores_are_those_of_what_the_model_writes(prepared, tmp_path):
    own, task, rows, model, _ = prepared("xsum")
    arguments = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    trainer = Trainer(model.eval(), arguments, data_collator=task.collator)
    scores = task.score(trainer, rows.train)
    prompts = task.examples(rows.train, training=False)
    summaries = []
    for index in range(len(prompts)):
        batch = task.processor.pad({"input_ids": [prompts[index]]}, return_tensors="pt")
        tokens = model.generate(**batch, num_beams=own.num_beams, max_new_tokens=own.max_target_length, do_sample=False)
        summaries += task.processor.batch_decode(tokens, skip_special_tokens=True)
    assert scores == pytest.approx(rouge(summaries, [str(text) for text in rows.train.column(own.target_column)]))


def test_a_row_without_a_summary_is_refused():
    task, row = Summarization(read("xsum")), {"document": "A story.", "summary": "Short."}
    task.prepare(Data(Split([row], "train"), {}))
    with pytest.raises(VectorFitError, match="row 1 has no summary"):
        task.prepare(Data(Split([row], "train"), {"test": Split([{**row, "summary": None}], "test")}))
