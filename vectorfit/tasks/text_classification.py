"""GLUE: a class or a number for a sentence or a pair of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import METRICS, Scores
from .task import Examples, Task, class_ids


class TextClassification(Task):
    """A class, or a number where the recipe has no labels."""

    auto_model = AutoModelForSequenceClassification

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
        texts = [[str(text) for text in split.column(column)] for column in self.recipe.input_columns]
        encoded = self.processor(*texts, truncation=True, max_length=self.recipe.max_length)
        targets = self._targets(split)
        return [
            {**{name: encoded[name][row] for name in encoded}, "labels": target} for row, target in enumerate(targets)
        ]

    @property
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        padding: Callable[[list[Any]], dict[str, Any]] = DataCollatorWithPadding(self.processor)
        return padding

    def score(self, trainer: Trainer, split: Split) -> Scores:
        out = trainer.predict(self.examples(split, training=False))
        logits = np.asarray(out.predictions[0] if isinstance(out.predictions, tuple) else out.predictions)
        answers = logits.argmax(-1) if self.recipe.labels else logits.reshape(-1)
        return METRICS[self.recipe.metric](answers, np.asarray(out.label_ids))
