"""Classes and numbers for sentences: what the model is configured for, examples, scores."""

from types import SimpleNamespace

import numpy as np
import pytest

from vectorfit import VectorFitError
from vf_tasks.data import Data, Split
from vf_tasks.recipe import read
from vf_tasks.text_classification import TextClassification


def predicting(logits, labels):
    """A trainer that has predicted these logits."""
    return SimpleNamespace(predict=lambda _: SimpleNamespace(predictions=np.array(logits), label_ids=np.array(labels)))


def test_classes_make_a_classifier_and_numbers_a_regression():
    classes = TextClassification(read("mnli")).model_options()
    assert classes["num_labels"] == len(read("mnli").labels) == 3
    assert classes["problem_type"] == "single_label_classification"
    assert {index: name for name, index in classes["label2id"].items()} == classes["id2label"]
    assert TextClassification(read("stsb")).model_options() == {"num_labels": 1, "problem_type": "regression"}


@pytest.mark.parametrize("name", ["cola", "rte", "stsb"])
def test_an_example_is_the_tokenizers_and_carries_its_target(prepared, name):
    own, task, rows, _, _ = prepared(name)
    row = rows.train[3]
    example = task.examples(rows.train, training=True)[3]
    expected = task.processor(*(row[column] for column in own.input_columns), truncation=True, max_length=64)
    assert example["input_ids"] == expected["input_ids"]
    target = row[rows.train.name(own.target_column)]
    assert example["labels"] == (own.labels.index(target) if own.labels else float(target))


def test_a_batch_is_padded_to_its_longest(prepared):
    _own, task, rows, _, _ = prepared("cola")
    examples = [task.examples(rows.train, training=True)[index] for index in (0, 15)]
    lengths = [len(example["input_ids"]) for example in examples]
    batch = task.collator([dict(example) for example in examples])
    assert lengths[0] != lengths[1]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape == (2, max(lengths))


def test_the_largest_logit_is_the_class(prepared):
    _own, task, rows, _, _ = prepared("sst2")
    trainer = predicting([[0.1, 2.0], [3.0, -1.0], [0.0, 1.0], [5.0, 1.0]], [1, 0, 0, 0])
    assert task.score(trainer, rows.train) == {"accuracy": 75.0, "auc": pytest.approx(100.0)}


def test_the_area_under_the_curve_counts_the_pairs_in_order_whatever_the_threshold(prepared):
    _own, task, rows, _, _ = prepared("cola")
    margins, labels = np.array([3.0, 1.0, 2.0, 0.5, 0.1]), [1, 1, 0, 0, 1]
    pairs = [float(p > n) for p in margins[[0, 1, 4]] for n in margins[[2, 3]]]
    logits = np.stack([np.zeros(5), margins + 100], 1)  # all of one class
    scores = task.score(predicting(logits, labels), rows.train)
    assert (scores["matthews"], scores["auc"]) == (0.0, pytest.approx(100 * sum(pairs) / len(pairs)))
    assert next(iter(scores)) == "matthews"
    assert "auc" not in task.score(predicting(logits, [1] * 5), rows.train)


def test_numbers_are_correlated_whatever_their_scale(prepared):
    _own, task, rows, _, _ = prepared("stsb")
    references = np.array([0.0, 1.0, 2.5, 4.0])
    scores = task.score(predicting((3 * references - 7)[:, None], references), rows.train)
    assert scores == pytest.approx({"pearson": 100, "spearman": 100})
    assert task.score(predicting(-references[:, None], references), rows.train)["pearson"] == pytest.approx(-100)


def test_rows_that_do_not_fit_are_refused_before_any_model_is_loaded():
    good = {"sentence1": "a", "sentence2": "b", "score": "1.5"}
    task = TextClassification(read("stsb"))
    task.prepare(Data(Split([good], "train"), {}))
    for bad, message in (
        ({**good, "score": "much"}, "numbers"),
        ({**good, "sentence2": None}, "row 2 has no sentence2"),
    ):
        with pytest.raises(VectorFitError, match=message):
            task.prepare(Data(Split([good, bad], "train"), {}))
