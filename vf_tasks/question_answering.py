"""SQuAD: the answer to a question as a span of a passage, or that the passage has none."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import Scores, squad, squad_v2
from .task import Examples, Task

N_BEST = 20  # starts and ends looked at, as in SQuAD's reference implementations
MAX_ANSWER = 30  # tokens
NO_SPAN = -1e9
ROWS = 500  # tokenised at a time: offsets take much memory


class QuestionAnswering(Task):
    """Long passages are read in overlapping windows; the best span of all windows is the answer."""

    auto_model = AutoModelForQuestionAnswering
    heads = ("qa_outputs",)
    inputs = (2,)

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            self._columns(split)

    def _columns(self, split: Split) -> tuple[list[str], list[str], list[Mapping[str, Any]]]:
        question, context = (split.column(name) for name in self.recipe.input_columns)
        answers = split.column(self.recipe.target_column)
        for place, (text, answer) in enumerate(zip(context, answers, strict=True), 1):
            problem = _problem(text, answer)
            if problem:
                raise VectorFitError(f"{split.where}: row {place}: {problem}")
        return [str(text).lstrip() for text in question], context, answers

    def _windows(self, question: list[str], context: list[str]) -> Iterator[tuple[int, Any]]:
        """The tokenizer's windows of some rows at a time, with the number of the first of these rows."""
        length = self.recipe.max_length
        for start in range(0, len(question), ROWS):
            try:
                yield (
                    start,
                    self.processor(
                        question[start : start + ROWS],
                        context[start : start + ROWS],
                        truncation="only_second",
                        max_length=length,
                        stride=min(self.recipe.stride, length // 3),
                        return_overflowing_tokens=True,
                        return_offsets_mapping=True,
                    ),
                )
            except Exception as error:  # the tokenizer's own, where a question leaves no room for the passage
                raise VectorFitError(
                    f"max_length: got {length}, which leaves no room for passages beside the questions ({error})"
                ) from error

    def examples(self, split: Split, training: bool) -> Examples:
        question, context, answers = self._columns(split)
        found = []
        for start, windows in self._windows(question, context):
            names = [name for name in self.processor.model_input_names if name in windows]
            for window, row in enumerate(windows["overflow_to_sample_mapping"]):
                first, last = _span(windows, window, answers[start + row]) if training else (0, 0)
                inputs = {name: np.asarray(windows[name][window], np.int32) for name in names}  # a tenth of lists
                found.append({**inputs, "start_positions": first, "end_positions": last})
        return found

    @property
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        padding: Callable[[list[Any]], dict[str, Any]] = DataCollatorWithPadding(
            self.processor, padding="max_length", max_length=self.recipe.max_length
        )
        return padding

    def score(self, trainer: Trainer, split: Split) -> Scores:
        question, context, answers = self._columns(split)
        out = trainer.predict(self.examples(split, training=False))
        starts, ends = (np.asarray(part) for part in out.predictions[:2])
        texts: list[str] = []
        margins: list[float] = []
        done = 0
        for _, windows in self._windows(question, context):
            here = slice(done, done := done + len(windows["input_ids"]))
            rows = slice(len(texts), len(texts) + ROWS)
            mine, margin = best_spans(windows, starts[here], ends[here], context[rows])
            texts, margins = texts + mine, margins + margin
        references = [list(answer["text"]) for answer in answers]
        if self.recipe.metric == "squad":
            return squad(texts, references)
        return squad_v2(margins, texts, references)


def _problem(text: Any, answer: Any) -> str:
    """What is wrong with a passage and its answers, or nothing."""
    form = "{text: [...], answer_start: [...]}"
    if not isinstance(text, str) or not isinstance(answer, Mapping) or not {"text", "answer_start"} <= answer.keys():
        return f"the answers are {answer!r}, expected {form}"
    words, starts = list(answer["text"]), list(answer["answer_start"])
    if len(words) != len(starts) or not all(isinstance(start, int) for start in starts):
        return f"the answers are {answer!r}, expected {form}, as many starts as texts"
    for start, word in zip(starts, words, strict=True):
        if text[start : start + len(word)].strip() != word.strip():
            return f"the answer {word!r} does not begin at letter {start}"
    return ""


def _span(windows: Any, window: int, answer: Mapping[str, Any]) -> tuple[int, int]:
    """First and last token of the first answer; the window's first token twice where it is not all in there."""
    if not answer["text"]:
        return 0, 0
    begin = answer["answer_start"][0]
    stop = begin + len(answer["text"][0])
    offsets = windows["offset_mapping"][window]
    inside = [place for place, part in enumerate(windows.sequence_ids(window)) if part == 1]
    # Tokens may carry the space before them, so the first one may begin before the answer does.
    first = next((place for place in inside if offsets[place][1] > begin), None)
    last = next((place for place in reversed(inside) if offsets[place][0] < stop), None)
    whole = inside and offsets[inside[0]][0] <= begin and offsets[inside[-1]][1] >= stop
    return (first, last) if whole and first is not None and last is not None and first <= last else (0, 0)


def best_spans(windows: Any, starts: Any, ends: Any, context: list[str]) -> tuple[list[str], list[float]]:
    """Each row's best span of all its windows, and by how much "no answer" (the first token) beats it.

    Args:
        windows: what the tokenizer made of the rows.
        starts, ends: logits [windows, tokens].
    """
    spans: list[tuple[float, str]] = [(NO_SPAN, "")] * len(context)
    nothing = [float("inf")] * len(context)
    for window, row in enumerate(windows["overflow_to_sample_mapping"]):
        offsets = windows["offset_mapping"][window]
        inside = np.array([part == 1 for part in windows.sequence_ids(window)])
        start, end = (np.where(inside, logits[window][: len(inside)], NO_SPAN) for logits in (starts, ends))
        nothing[row] = min(nothing[row], float(starts[window][0] + ends[window][0]))
        for first in np.argsort(-start)[:N_BEST]:
            for last in np.argsort(-end)[:N_BEST]:
                total = float(start[first] + end[last])
                if inside[first] and inside[last] and 0 <= last - first < MAX_ANSWER and total > spans[row][0]:
                    spans[row] = (total, context[row][offsets[first][0] : offsets[last][1]].strip())
    texts = [text for _, text in spans]
    return texts, [nothing[row] - spans[row][0] for row in range(len(context))]
