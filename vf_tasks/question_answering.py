"""SQuAD: the answer to a question is a span of a passage, or "no answer"."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, Trainer

from vectorfit import VectorFitError

from .data import Data, Split
from .metrics import Scores, squad, squad_v2
from .task import Examples, Task

N_BEST = 20  # candidates for start and end, as in SQuAD's reference implementations
MAX_ANSWER = 30  # tokens of an answer
NO_SPAN = -1e9
ROWS = 500  # tokenised at a time: offsets need much memory


class QuestionAnswering(Task):
    """Reads long passages in overlapping windows. The best span of all windows is the answer."""

    auto_model = AutoModelForQuestionAnswering
    heads = ("qa_outputs",)
    inputs = (2,)

    def prepare(self, data: Data) -> None:
        for split in (data.train, *data.tests.values()):
            self._columns(split)

    def _columns(self, split: Split) -> tuple[list[str], list[str], list[Mapping[str, Any]]]:
        question, context = (split.column(name) for name in self.recipe.input_columns)
        answers = split.column(self.recipe.target_column)
        for number, (text, answer) in enumerate(zip(context, answers, strict=True), 1):
            problem = _problem(text, answer)
            if problem:
                raise VectorFitError(f"{split.where}: row {number}: {problem}")
        return [str(text).lstrip() for text in question], context, answers

    def _windows(self, question: list[str], context: list[str]) -> Iterator[tuple[int, Any]]:
        """The tokenizer's windows of ROWS rows at a time, with the index of the first of these rows."""
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
            except Exception as error:  # the tokenizer has errors of its own if a question leaves no room
                raise VectorFitError(
                    f"max_length: got {length}, which leaves no room for passages after the questions ({error})"
                ) from error

    def examples(self, split: Split, training: bool) -> Examples:
        question, context, answers = self._columns(split)
        examples = []
        for start, windows in self._windows(question, context):
            names = [name for name in self.processor.model_input_names if name in windows]
            for window, row in enumerate(windows["overflow_to_sample_mapping"]):
                first, last = _span(windows, window, answers[start + row]) if training else (0, 0)
                inputs = {
                    name: np.asarray(windows[name][window], np.int32) for name in names
                }  # arrays need a tenth of lists' memory
                examples.append({**inputs, "start_positions": first, "end_positions": last})
        return examples

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
            spans, margin = best_spans(windows, starts[here], ends[here], context[rows])
            texts, margins = texts + spans, margins + margin
        references = [list(answer["text"]) for answer in answers]
        if self.recipe.metric == "squad":
            return squad(texts, references)
        return squad_v2(margins, texts, references)


def _problem(text: Any, answer: Any) -> str:
    """What is wrong with a passage and its answers; empty if nothing is."""
    form = "{text: [...], answer_start: [...]}"
    if not isinstance(text, str) or not isinstance(answer, Mapping) or not {"text", "answer_start"} <= answer.keys():
        return f"the answers are {answer!r}, expected {form}"
    words, starts = list(answer["text"]), list(answer["answer_start"])
    if len(words) != len(starts) or not all(isinstance(start, int) for start in starts):
        return f"the answers are {answer!r}, expected {form}, as many starts as texts"
    for start, word in zip(starts, words, strict=True):
        if text[start : start + len(word)].strip() != word.strip():
            return f"the answer {word!r} does not begin at character {start}"
    return ""


def _span(windows: Any, window: int, answer: Mapping[str, Any]) -> tuple[int, int]:
    """First and last token of the first answer in a window; (0, 0) if the window does not contain all of it."""
    if not answer["text"]:
        return 0, 0
    begin = answer["answer_start"][0]
    stop = begin + len(answer["text"][0])
    offsets = windows["offset_mapping"][window]
    passage = [token for token, part in enumerate(windows.sequence_ids(window)) if part == 1]
    # A token may include the space before it, so the first one may begin before the answer does.
    first = next((token for token in passage if offsets[token][1] > begin), None)
    last = next((token for token in reversed(passage) if offsets[token][0] < stop), None)
    contained = passage and offsets[passage[0]][0] <= begin and offsets[passage[-1]][1] >= stop
    return (first, last) if contained and first is not None and last is not None and first <= last else (0, 0)


def best_spans(windows: Any, starts: Any, ends: Any, context: list[str]) -> tuple[list[str], list[float]]:
    """Each row's best span over all its windows, and the score of "no answer" (the first token) minus the span's.

    Args:
        windows: the tokenizer's output for the rows.
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
