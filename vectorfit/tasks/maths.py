"""GSM8K and MATH: a problem worked, whose last word is the answer."""

from collections.abc import Callable
from typing import Any

from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, PreTrainedModel, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import METRICS, Scores
from .task import Examples, Task, written

PROMPT = "Question: {}\nAnswer: "
IGNORED = -100  # in labels


class Maths(Task):
    """The model learns the solution, not the question; it writes greedily."""

    auto_model = AutoModelForCausalLM

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

    def _prompts(self, split: Split) -> list[list[int]]:
        texts = [PROMPT.format(text) for text in split.column(self.recipe.input_columns[0])]
        ids: list[list[int]] = self.processor(texts)["input_ids"]
        end = self.processor.eos_token_id
        return [row[:-1] if row and row[-1] == end else row for row in ids]  # some tokenizers end every text

    def examples(self, split: Split, training: bool) -> Examples:
        prompts = self._prompts(split)
        if not training:
            return prompts
        solutions = self.processor(split.column(self.recipe.target_column), add_special_tokens=False)["input_ids"]
        end, most = self.processor.eos_token_id, self.recipe.max_length
        longest = max(range(len(prompts)), key=lambda row: len(prompts[row]))
        if len(prompts[longest]) >= most:
            raise VectorFitError(
                f"{split.where}: row {longest + 1}: the question alone has {len(prompts[longest])} tokens, expected "
                f"fewer than max_length ({most}); raise it"
            )
        return [
            {
                "input_ids": [*prompt, *solution, end][:most],
                "labels": [*([IGNORED] * len(prompt)), *solution, end][:most],
            }
            for prompt, solution in zip(prompts, solutions, strict=True)
        ]

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
