"""The field's scores. Each function returns numbers by name; the first is the run's score."""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import math_verify
import numpy as np
from math_verify import ExprExtractionConfig, LatexExtractionConfig
from rouge_score import rouge_scorer
from scipy import stats
from sklearn import metrics as sk

Scores = dict[str, float]


def _percent(**scores: float) -> Scores:
    return {name: 100 * float(score) for name, score in scores.items()}


def accuracy(predictions: Any, references: Any) -> Scores:
    return _percent(accuracy=sk.accuracy_score(references, predictions))


def matthews(predictions: Any, references: Any) -> Scores:
    """Matthews correlation, for CoLA. It is 0 if all predictions are the same."""
    return _percent(
        matthews=sk.matthews_corrcoef(references, predictions), accuracy=sk.accuracy_score(references, predictions)
    )


def accuracy_f1(predictions: Any, references: Any) -> Scores:
    """Accuracy and F1 of class 1, for QQP and MRPC."""
    return _percent(accuracy=sk.accuracy_score(references, predictions), f1=sk.f1_score(references, predictions))


def area_under_curve(margins: Any, references: Any) -> Scores:
    """The area under the ROC curve: how often a member of class 1 has the higher margin, whatever the threshold.

    Nothing where all references are of one class.
    """
    if len(set(references)) < 2:
        return {}
    finite = np.isfinite(margins).all()
    return {"auc": 100 * float(sk.roc_auc_score(references, margins)) if finite else np.nan}


def pearson(predictions: Any, references: Any) -> Scores:
    """Pearson and Spearman correlation, for STS-B. They are 0 if all predictions are the same."""
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return _percent(
        pearson=stats.pearsonr(predictions, references).statistic,
        spearman=stats.spearmanr(predictions, references).statistic,
    )


def rouge(predictions: Sequence[str], references: Sequence[str]) -> Scores:
    """F1 of ROUGE-L, -1, -2 and -Lsum, with stemming, times 100."""
    kinds = ("rougeL", "rouge1", "rouge2", "rougeLsum")
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    scored = [
        scorer.score(_lines(reference), _lines(prediction))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {kind: 100 * float(np.mean([scores[kind].fmeasure for scores in scored])) for kind in kinds}


def _lines(text: str) -> str:
    """The text with each sentence on its own line, as ROUGE-Lsum expects."""
    return "\n".join(re.split(r"(?<=[.!?])\s+", text.strip()))


def normalise_answer(text: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, answer: str) -> float:
    return float(normalise_answer(prediction) == normalise_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """SQuAD's F1 over words; 1 or 0 if an answer is empty."""
    mine, theirs = normalise_answer(prediction).split(), normalise_answer(answer).split()
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((collections.Counter(mine) & collections.Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))


def squad(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """F1 and exact match against the best of a question's answers, times 100."""
    pairs = [(prediction, answers or [""]) for prediction, answers in zip(predictions, references, strict=True)]
    return {
        name: 100
        * float(np.mean([max(score(prediction, answer) for answer in answers) for prediction, answers in pairs]))
        for name, score in (("f1", token_f1), ("exact_match", exact_match))
    }


def squad_v2(margins: Sequence[float], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """F1 and exact match, each at its own best threshold on `margins`, and F1's threshold, as in SQuAD 2.0.

    A margin is the score of "no answer" minus that of the best span. Above the threshold the answer is empty.
    """
    threshold, f1 = best_threshold(margins, predictions, references, token_f1)
    _, exact = best_threshold(margins, predictions, references, exact_match)
    return {"f1": 100 * f1, "exact_match": 100 * exact, "no_answer_threshold": threshold}


def best_threshold(
    scores: Sequence[float],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    metric: Callable[[str, str], float],
) -> tuple[float, float]:
    """The threshold on `scores` above which "no answer" maximises the metric's mean, and that mean.

    As in SQuAD 2.0, it is chosen on the split that is scored.
    """
    given = [
        max(metric(prediction, answer) for answer in (answers or [""]))
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    empty = [float(not answers) for answers in references]
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores, float)[order]
    # The total for each count of kept answers; all others are empty.
    totals = np.concatenate([[0.0], np.cumsum((np.asarray(given) - np.asarray(empty))[order])]) + sum(empty)
    cuts = np.concatenate([[True], np.diff(ordered) > 0, [True]])  # equal scores stay together
    kept = int(np.argmax(np.where(cuts, totals, -np.inf)))
    threshold = float(ordered[kept - 1]) if kept else float(ordered[0]) - 1.0
    return threshold, float(totals[kept]) / len(given)


def gsm8k_answer(text: str) -> list[Any]:
    """The number after the first "####", otherwise the last number, as `math_verify.parse` gives it; [] without one."""
    return list(math_verify.parse(text.split("####", 2)[1] if "####" in text else text, [ExprExtractionConfig()]))


def gsm8k(predictions: Sequence[str], references: Sequence[str]) -> Scores:
    """The share of solutions whose final number is the reference's."""
    return _solved(predictions, references, gsm8k_answer)


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}; None if there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].split("{", 1)
    if len(rest) < 2 or rest[0].strip() not in ("\\boxed", "\\fbox"):
        return rest[0].removeprefix("\\boxed").strip().split("$")[0] or None
    depth = 1
    for index, letter in enumerate(rest[1]):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return rest[1][:index]
    return None


def math_answer(text: str) -> list[Any]:
    """The content of the last box, as `math_verify.parse` gives it; [] without one."""
    answer = boxed(text)
    return [] if answer is None else list(math_verify.parse(rf"\boxed{{{answer}}}", [LatexExtractionConfig()]))


def math(predictions: Sequence[str], references: Sequence[str]) -> Scores:
    """The share of solutions whose boxed answer equals the reference's as mathematics, however it is written."""
    return _solved(predictions, references, math_answer)


def _solved(predictions: Sequence[str], references: Sequence[str], answer: Callable[[str], list[Any]]) -> Scores:
    pairs = [(answer(p), answer(r)) for p, r in zip(predictions, references, strict=True)]
    right = sum(bool(predicted) and math_verify.verify(expected, predicted) for predicted, expected in pairs)
    return _percent(accuracy=right / len(pairs), answered=sum(bool(predicted) for predicted, _ in pairs) / len(pairs))


METRICS: Mapping[str, Callable[[Any, Any], Scores]] = {
    "accuracy": accuracy,
    "matthews": matthews,
    "accuracy_f1": accuracy_f1,
    "pearson": pearson,
    "rouge": rouge,
    "gsm8k": gsm8k,
    "math": math,
}
