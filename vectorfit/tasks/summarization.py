"""XSum and CNN/DailyMail: a story in a few words."""

from collections.abc import Callable
from typing import Any

from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel, Trainer

from .data import Data, Split
from .metrics import METRICS, Scores
from .task import Examples, Task, written


class Summarization(Task):
    auto_model = AutoModelForSeq2SeqLM
    model: PreTrainedModel

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            split.column(self.recipe.input_columns[0])
            split.column(self.recipe.target_column)

    def complete(self, model: PreTrainedModel) -> None:
        self.model = model

    def examples(self, split: Split, training: bool) -> Examples:
        stories, summaries = split.column(self.recipe.input_columns[0]), split.column(self.recipe.target_column)
        inputs = self.processor(stories, truncation=True, max_length=self.recipe.max_length)
        if not training:
            return list(inputs["input_ids"])
        targets = self.processor(text_target=summaries, truncation=True, max_length=self.recipe.max_target_length)
        return [
            {"input_ids": story, "labels": summary}
            for story, summary in zip(inputs["input_ids"], targets["input_ids"], strict=True)
        ]

    @property
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        padding: Callable[[list[Any]], dict[str, Any]] = DataCollatorForSeq2Seq(self.processor, self.model)
        return padding

    def score(self, trainer: Trainer, split: Split) -> Scores:
        summaries = written(
            trainer,
            self,
            self.examples(split, training=False),
            num_beams=self.recipe.num_beams,
            max_new_tokens=self.recipe.max_target_length,
            do_sample=False,
        )
        return METRICS[self.recipe.metric](summaries, [str(text) for text in split.column(self.recipe.target_column)])
