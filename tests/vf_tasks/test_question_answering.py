"""Windows over long passages: where answers are in them, and the best span of all."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vectorfit import VectorFitError
from vf_tasks.data import Data, Split
from vf_tasks.question_answering import QuestionAnswering, best_spans
from vf_tasks.recipe import read


def test_the_best_span_of_all_windows():
    class Windows(dict):
        def sequence_ids(self, window):
            return [None, 0, None, 1, 1, 1, None]

    offsets = [(0, 0), (0, 3), (0, 0), (0, 2), (3, 5), (6, 9), (0, 0)]
    windows = Windows(overflow_to_sample_mapping=[0, 0, 1], offset_mapping=[offsets] * 3)
    starts, ends = torch.zeros(3, 7).numpy(), torch.zeros(3, 7).numpy()
    starts[0, 4], ends[0, 5] = 3, 4  # words 2 to 3 of the first row
    starts[1, 3], ends[1, 3] = 2, 2
    starts[2, 5], ends[2, 3] = 9, 8  # backwards: no span of those two
    starts[2, 0], ends[2, 0] = 5, 5
    texts, margins = best_spans(windows, starts, ends, ["ab cd efg", "ab cd efg"])
    assert texts[0] == "cd efg"
    assert margins[0] == -7
    assert texts[1] in ("ab", "efg")
    assert margins[1] == pytest.approx(10 - 9)


def test_windows_hold_their_answers(prepared):
    """Over every window of a long passage: where the span's tokens lie, there the answer's letters are."""
    _own, task, rows, _, _ = prepared("squad", max_length=32)
    assert isinstance(task, QuestionAnswering)
    question, context, answers = task._columns(rows.train)
    ((_, windows),) = task._windows(question, context)
    assert len(windows["input_ids"]) > len(question)  # some have several
    found = set()
    for window, example in enumerate(task.examples(rows.train, training=True)):
        first, last = example["start_positions"], example["end_positions"]
        row = windows["overflow_to_sample_mapping"][window]
        if last:
            offsets = windows["offset_mapping"][window]
            assert answers[row]["text"][0] in context[row][offsets[first][0] : offsets[last][1]]
            found.add(row)
    assert found == set(range(len(question)))


def test_an_answer_is_whole_in_a_window_or_not_in_it(prepared):
    """Of answers of several words that windows cut, no part is taken for the answer."""
    _own, task, rows, _, _ = prepared("squad", max_length=32)
    passage = rows.train[0]["context"]
    words = passage.split()
    texts = [" ".join(words[first : first + 4]) for first in range(len(words) - 4)]
    answers = [{"text": [text], "answer_start": [passage.index(text)]} for text in texts]
    split = Split([{"question": "Who?", "context": passage, "answers": answer} for answer in answers], "passages")
    question, context, _ = task._columns(split)
    ((_, windows),) = task._windows(question, context)
    cut = 0
    for window, example in enumerate(task.examples(split, training=True)):
        answer = answers[windows["overflow_to_sample_mapping"][window]]
        offsets, kinds = windows["offset_mapping"][window], windows.sequence_ids(window)
        inside = [offsets[token] for token, kind in enumerate(kinds) if kind == 1]
        begin, stop = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
        if example["end_positions"]:
            first, last = offsets[example["start_positions"]], offsets[example["end_positions"]]
            assert passage[first[0] : last[1]].strip() == answer["text"][0]
        else:
            assert inside[0][0] > begin or inside[-1][1] < stop
            cut += inside[0][0] < stop and inside[-1][1] > begin
    assert cut > 3


def test_logits_at_the_answers_score_everything_right(prepared):
    """The path from windows to scores: the answers' own positions are a perfect prediction."""
    _own, task, rows, _, _ = prepared("squad", max_length=32)
    (split,) = rows.tests.values()
    examples = task.examples(split, training=True)
    logits = np.full((2, len(examples), 32), -5.0)
    for window, example in enumerate(examples):
        for kind, name in enumerate(("start_positions", "end_positions")):
            logits[kind, window, example[name]] = 9.0 if example["end_positions"] else -9.0
    trainer = SimpleNamespace(predict=lambda _: SimpleNamespace(predictions=tuple(logits)))
    assert set(task.score(trainer, split).values()) == {100.0}
    silent = SimpleNamespace(predict=lambda _: SimpleNamespace(predictions=tuple(-logits)))
    assert max(task.score(silent, split).values()) < 100


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Ada"], "answer_start": [0]},
        {"text": ["Ada"], "answer_start": []},
        {"text": ["Ada"], "answer_start": ["7"]},
        {"text": ["Ada"]},
        "Ada",
    ],
    ids=str,
)
def test_answers_that_are_not_in_the_passage_are_refused_with_the_row(answers):
    good = {"question": "Who?", "context": "It was Ada.", "answers": {"text": ["Ada"], "answer_start": [7]}}
    split = Split([good, {**good, "answers": answers}], "train.json")
    task = QuestionAnswering(read("squad"))
    task.prepare(Data(Split([good], "train.json"), {}))
    with pytest.raises(VectorFitError, match=r"train\.json: row 2"):
        task.prepare(Data(split, {}))
