"""GLUE: a class or a number for a sentence or a pair of sentences."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import METRICS, Scores, area_under_curve
from .task import Examples, Rows, Task, class_id, class_ids


class TextClassification(Task):
    """Predicts a class, or a number if the recipe has no labels."""

    auto_model = AutoModelForSequenceClassification
    heads = ("classifier",)
    inputs = (1, 2)

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            for column in self.recipe.input_columns:
                split.column(column)
            self._targets(split)

    def _targets(self, split: Split) -> list[Any]:
        column, labels = self.recipe.target_column, self.recipe.labels
        if labels:
            return class_ids(split, column, labels)
        values = split.column(column)
        try:
            return [float(value) for value in values]
        except ValueError as error:
            raise VectorFitError(f"{split.where}: {column} holds something else than numbers ({error})") from error

    def model_options(self) -> dict[str, Any]:
        labels = self.recipe.labels
        if not labels:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": len(labels),
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }

    def examples(self, split: Split, training: bool) -> Examples:
        return Rows(self, split, training)

    def example(self, row: Mapping[str, Any], training: bool) -> dict[str, Any]:
        texts = [str(row[column]) for column in self.recipe.input_columns]
        encoded = self.processor(*texts, truncation=True, max_length=self.recipe.max_length)
        return {**encoded, "labels": self._target(row[self.recipe.target_column])}

    def _target(self, value: Any) -> Any:
        return class_id(value, self.recipe.labels) if self.recipe.labels else float(value)

    @property
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        padding: Callable[[list[Any]], dict[str, Any]] = DataCollatorWithPadding(self.processor)
        return padding

    def score(self, trainer: Trainer, split: Split) -> Scores:
        out = trainer.predict(self.examples(split, training=False))
        logits = np.asarray(out.predictions[0] if isinstance(out.predictions, tuple) else out.predictions)
        answers = logits.argmax(-1) if self.recipe.labels else logits.reshape(-1)
        scores = METRICS[self.recipe.metric](answers, np.asarray(out.label_ids))
        if len(self.recipe.labels) == 2:
            scores |= area_under_curve(logits[:, 1] - logits[:, 0], np.asarray(out.label_ids))
        return scores
