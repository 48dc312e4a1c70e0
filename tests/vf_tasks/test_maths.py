"""Problems worked: the model learns the solution alone, and writes behind the prompt."""

import pytest
import torch

from vectorfit import VectorFitError
from vf_tasks.maths import IGNORED, PROMPT


def test_the_question_of_a_problem_is_not_learned(prepared):
    _own, task, rows, _, _ = prepared("gsm8k")
    example = task.examples(rows.train, training=True)[0]
    learned = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    text = task.processor.decode(learned)
    assert "Question" not in text


def test_an_example_is_the_prompt_the_solution_and_an_end(prepared):
    _own, task, rows, _, _ = prepared("gsm8k")
    row = rows.train[0]
    example = task.examples(rows.train, training=True)[0]
    prompt = task.examples(rows.train, training=False)[0]
    assert task.processor.decode(prompt) == PROMPT.format(row["question"])
    assert example["input_ids"][: len(prompt)] == prompt
    assert example["labels"] == [IGNORED] * len(prompt) + example["input_ids"][len(prompt) :]
    assert example["input_ids"][-1] == task.processor.eos_token_id
    solution = task.processor.decode(example["input_ids"][len(prompt) : -1])
    assert solution == row["answer"]


def test_prompts_are_padded_on_the_left_and_every_part_of_a_batch_has_a_length(prepared):
    _own, task, rows, _, _ = prepared("gsm8k")
    assert task.processor.padding_side == "left"
    examples = [task.examples(rows.train, training=True)[i] for i in (0, 12)]
    batch = task.collator([dict(example) for example in examples])
    longest = max(len(example["input_ids"]) for example in examples)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, longest)
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == IGNORED).all()
    assert torch.equal(padding.sum(1), torch.tensor([longest - len(example["input_ids"]) for example in examples]))


def test_a_long_solution_is_cut_and_a_long_question_refused(prepared):
    own, task, rows, _, _ = prepared("gsm8k")
    prompt = len(task.examples(rows.train, training=False)[0])
    task.recipe = own.changed(max_length=prompt + 2)
    assert len(task.examples(rows.train, training=True)[0]["labels"]) == prompt + 2
    task.recipe = own.changed(max_length=prompt)
    with pytest.raises(VectorFitError, match=rf"{prompt} tokens, expected fewer than max_length \({prompt}\)"):
        task.examples(rows.train, training=True)[0]
