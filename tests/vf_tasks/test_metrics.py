"""Scores against closed forms, brute force, and the gold answers of GSM8K."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vf_tasks import metrics

DATA = Path(os.environ.get("VECTORFIT_DATA", Path(__file__).parents[4] / "shared" / "data"))
CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=4, max_size=40)


@given(CLASSES)
def test_matthews_and_f1_are_their_closed_forms(pairs):
    predictions, references = (np.array(side) for side in zip(*pairs, strict=True))
    tp, tn, fp, fn = (int(((predictions == p) & (references == r)).sum()) for p, r in ((1, 1), (0, 0), (1, 0), (0, 1)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = (tp * tn - fp * fn) / below if below else 0.0
    found = metrics.matthews(predictions, references)
    assert next(iter(found)) == "matthews"
    assert found["matthews"] == pytest.approx(100 * expected)
    assert found["accuracy"] == pytest.approx(100 * (tp + tn) / len(pairs))
    if tp + fp + fn:
        assert metrics.accuracy_f1(predictions, references)["f1"] == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn))


def test_correlations():
    x = np.linspace(0, 5, 20)
    assert metrics.pearson(3 * x + 1, x) == {"pearson": pytest.approx(100), "spearman": pytest.approx(100)}
    bent = metrics.pearson(x**5, x)
    assert bent["spearman"] == pytest.approx(100)
    assert bent["pearson"] < 90
    assert metrics.pearson(-x, x)["pearson"] == pytest.approx(-100)
    assert metrics.pearson(np.ones(20), x) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("The Broncos!", "broncos", 1, 1),
        ("Denver Broncos", "the Broncos", 0, 2 / 3),
        ("", "", 1, 1),
        ("", "Broncos", 0, 0),
        ("a an the", "", 1, 1),
        ("cat cat dog", "cat dog dog", 0, 2 * 2 / 6),
    ],
)
def test_squads_own_normalisation(prediction, answer, exact, f1):
    assert metrics.exact_match(prediction, answer) == exact
    assert metrics.token_f1(prediction, answer) == pytest.approx(f1)


def test_squad_takes_the_best_of_several_answers():
    assert metrics.squad(["two"], [["three", "two", "2"]]) == {"f1": 100.0, "exact_match": 100.0}
    assert metrics.squad(["two", "x"], [["two"], ["y"]]) == {"f1": 50.0, "exact_match": 50.0}


@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.booleans(), st.booleans()),
        min_size=1,
        max_size=14,
    )
)
def test_the_threshold_for_no_answer_is_the_best_there_is(rows):
    """Against every cut that could be made."""
    margins = [float(margin) for margin, _, _ in rows]
    texts = ["right" if good else "wrong" for _, good, _ in rows]
    references = [[] if empty else ["right"] for _, _, empty in rows]

    def scored(threshold, name):
        kept = [text if margin <= threshold else "" for text, margin in zip(texts, margins, strict=True)]
        return metrics.squad(kept, references)[name]

    found = metrics.squad_v2(margins, texts, references)
    for name in ("f1", "exact_match"):
        assert found[name] == pytest.approx(max(scored(cut, name) for cut in np.arange(-4, 4)))
    assert found["f1"] == pytest.approx(scored(found["no_answer_threshold"], "f1"))


def test_rouge_counts_stems_and_keeps_the_order():
    same = metrics.rouge(["The cats are running."], ["the cat runs"])
    assert same["rouge1"] == pytest.approx(100 * 2 * 3 / 7)  # 3 of 4 words and of 3, stemmed
    assert metrics.rouge(["b a"], ["a b"])["rouge1"] == pytest.approx(100)
    assert metrics.rouge(["b a"], ["a b"])["rougeL"] == pytest.approx(50)
    assert metrics.rouge(["b a"], ["a b"])["rouge2"] == 0
    several = metrics.rouge(["One here. Two there."], ["Two there. One here."])
    assert several["rougeLsum"] == pytest.approx(100)  # a sentence a line
    assert several["rougeL"] < 100
    assert next(iter(several)) == "rougeL"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7\n#### 7", 7),
        ("#### 1,234", 1234),
        ("#### $-5", -5),
        ("#### 2.50", 2.5),
        ("#### 12.00", 12),
        ("She pays 18 dollars.", 18),
        ("The total is 1,000.", 1000),
        ("#### 5 and later #### 6", 5),
        ("no number", None),
    ],
)
def test_the_answer_of_a_worked_problem(text, answer):
    found = metrics.gsm8k_answer(text)
    assert (float(found[0]) if found else None) == answer


@pytest.mark.skipif(not (DATA / "gsm8k" / "test.jsonl").exists(), reason="no GSM8K at hand")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gold_answer_of_gsm8k_parses_to_itself(split):
    lines = (DATA / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [json.loads(line)["answer"] for line in lines]
    assert len(golds) > 1000
    for gold in golds:
        written = gold.rpartition("####")[2].strip().replace(",", "")
        assert float(metrics.gsm8k_answer(gold)[0]) == float(written.replace("$", ""))
        # The same number from words around it, as a model might write it.
        in_words = metrics.gsm8k_answer(f"Thus there are {written.replace('$', '')} of them.")
        assert in_words[0] == metrics.gsm8k_answer(gold)[0]
    assert metrics.gsm8k(golds, golds)["accuracy"] == 100
    assert metrics.gsm8k(golds[1:] + golds[:1], golds)["accuracy"] < 10


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{a} then \boxed{b}", "b"),
        (r"\boxed 7$", "7"),
        (r"\fbox{3}", "3"),
        (r"\boxed{open", None),
        ("none", None),
    ],
)
def test_what_the_last_box_holds(text, inside):
    assert metrics.boxed(text) == inside


EQUAL = [
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "1/2"),
    (r"-\frac{1}{2}", "-1/2"),
    (r"\sqrt{2}", r"\sqrt2"),
    (r"(1, 2)", r"\left(1,2\right)"),
    (r"1,000", "1000"),
    (r"50\%", "50"),
    (r"90^\circ", "90"),
    (r"x=5", "5"),
    (r"5\text{ cm}", "5"),
    (r".5", "0.5"),
    (r"0.50", "0.5"),
    (r"\text{Monday}", "Monday"),
    (r"\$12", "12"),
    (r"3\!\cdot\!4", r"3\cdot4"),
    (r"11,\! 111,\! 111", "11111111"),
    (r"\frac 59", r"\frac{5}{9}"),
    (r"5\text{ cm}^{2}", "5"),
    ("0.5", r"\frac{1}{2}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    (r"(x+1)^2", r"x^2+2x+1"),
    (r"\{1, 2\}", r"\{2, 1\}"),
]
UNLIKE = [("1", "2"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("(1,2)", "(2,1)"), ("x", "y"), ("10", "100"), ("5", "-5")]


@pytest.mark.parametrize(("mine", "theirs"), EQUAL)
def test_boxed_answers_that_are_written_otherwise_are_equal(mine, theirs):
    both = [rf"\boxed{{{text}}}" for text in (mine, theirs)]
    assert metrics.math(both[:1], both[1:])["accuracy"] == 100


@pytest.mark.parametrize(("mine", "theirs"), UNLIKE)
def test_other_answers_are_not(mine, theirs):
    both = [rf"\boxed{{{text}}}" for text in (mine, theirs)]
    assert metrics.math(both[:1], both[1:])["accuracy"] == 0


def test_a_solution_without_an_answer_is_wrong():
    assert metrics.math(["I do not know"], ["I do not know"]) == {"accuracy": 0.0, "answered": 0.0}
