"""GSM8K and MATH: the model writes the solution of a problem, which ends with the answer."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, PreTrainedModel, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import METRICS, Scores
from .task import Examples, Rows, Task, written

PROMPT = "Question: {}\nAnswer: "
IGNORED = -100  # a label that does not count in the loss


class Maths(Task):
    """Trains on the solution, not on the question. Generation is greedy."""

    auto_model = AutoModelForCausalLM
    averages_over_tokens = True

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            split.column(self.recipe.input_columns[0])
            split.column(self.recipe.target_column)

    def complete(self, model: PreTrainedModel) -> None:
        if self.processor.pad_token is None:  # Llama 3 has none; padding is masked, so any token will do
            self.processor.pad_token = self.processor.eos_token
        self.processor.padding_side = "left"  # so that the generated text follows the prompt directly
        if model.generation_config is not None:
            model.generation_config.pad_token_id = self.processor.pad_token_id

    def examples(self, split: Split, training: bool) -> Examples:
        return Rows(self, split, training)

    def example(self, row: Mapping[str, Any], training: bool) -> Any:
        question, solution = str(row[self.recipe.input_columns[0]]), str(row[self.recipe.target_column])
        prompt: list[int] = self.processor(PROMPT.format(question))["input_ids"]
        end, max_length = self.processor.eos_token_id, self.recipe.max_length
        if prompt and prompt[-1] == end:  # some tokenizers end every text
            prompt = prompt[:-1]
        if not training:
            return prompt
        if len(prompt) >= max_length:
            raise VectorFitError(
                f"a question has {len(prompt)} tokens, expected fewer than max_length ({max_length}), raise it: "
                f"{question[:60]!r}"
            )
        answer = [*self.processor(solution, add_special_tokens=False)["input_ids"], end]
        ids = {"input_ids": [*prompt, *answer], "labels": [*([IGNORED] * len(prompt)), *answer]}
        return {name: values[:max_length] for name, values in ids.items()}

    @property
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        padding: Callable[[list[Any]], dict[str, Any]] = DataCollatorForSeq2Seq(self.processor)
        return padding

    def score(self, trainer: Trainer, split: Split) -> Scores:
        solutions = written(
            trainer,
            self,
            self.examples(split, training=False),
            max_new_tokens=self.recipe.max_target_length,
            do_sample=False,
        )
        return METRICS[self.recipe.metric](solutions, [str(text) for text in split.column(self.recipe.target_column)])
