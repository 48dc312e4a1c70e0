"""GSM8K and MATH: a problem worked, whose last word is the answer."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, PreTrainedModel, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import METRICS, Scores
from .task import Examples, Rows, Task, written

PROMPT = "Question: {}\nAnswer: "
IGNORED = -100  # in labels


class Maths(Task):
    """The model learns the solution, not the question; it writes greedily."""

    auto_model = AutoModelForCausalLM
    averages_over_tokens = True

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            split.column(self.recipe.input_columns[0])
            split.column(self.recipe.target_column)

    def complete(self, model: PreTrainedModel) -> None:
        if self.processor.pad_token is None:  # Llama 3 has none; what is padded is masked, whatever its token
            self.processor.pad_token = self.processor.eos_token
        self.processor.padding_side = "left"  # so that the model goes on right behind the prompt
        if model.generation_config is not None:
            model.generation_config.pad_token_id = self.processor.pad_token_id

    def examples(self, split: Split, training: bool) -> Examples:
        return Rows(self, split, training)

    def example(self, row: Mapping[str, Any], training: bool) -> Any:
        question, solution = str(row[self.recipe.input_columns[0]]), str(row[self.recipe.target_column])
        prompt: list[int] = self.processor(PROMPT.format(question))["input_ids"]
        end, most = self.processor.eos_token_id, self.recipe.max_length
        if prompt and prompt[-1] == end:  # some tokenizers end every text
            prompt = prompt[:-1]
        if not training:
            return prompt
        if len(prompt) >= most:
            raise VectorFitError(
                f"a question alone has {len(prompt)} tokens, expected fewer than max_length ({most}), raise it: "
                f"{question[:60]!r}"
            )
        answer = [*self.processor(solution, add_special_tokens=False)["input_ids"], end]
        ids = {"input_ids": [*prompt, *answer], "labels": [*([IGNORED] * len(prompt)), *answer]}
        return {name: values[:most] for name, values in ids.items()}

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
