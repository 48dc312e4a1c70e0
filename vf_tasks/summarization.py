"""XSum and CNN/DailyMail: the model writes a short summary of an article."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel, Trainer

from .data import Data, Split
from .metrics import METRICS, Scores
from .task import Examples, Rows, Task, written


class Summarization(Task):
    """Trains on the reference summaries. Generation is a beam search."""

    auto_model = AutoModelForSeq2SeqLM
    model: PreTrainedModel

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            split.column(self.recipe.input_columns[0])
            split.column(self.recipe.target_column)

    def complete(self, model: PreTrainedModel) -> None:
        self.model = model

    def examples(self, split: Split, training: bool) -> Examples:
        return Rows(self, split, training)

    def example(self, row: Mapping[str, Any], training: bool) -> Any:
        story, summary = str(row[self.recipe.input_columns[0]]), str(row[self.recipe.target_column])
        inputs = self.processor(story, truncation=True, max_length=self.recipe.max_length)["input_ids"]
        if not training:
            return inputs
        target = self.processor(text_target=summary, truncation=True, max_length=self.recipe.max_target_length)
        return {"input_ids": inputs, "labels": target["input_ids"]}

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
