"The verdict's figures against known statistics, and its words where figures mislead."
import ast
import inspect
import math
import re

import dspy
import numpy as np
import pytest
from hostile import faults

from bsft_nb.results.evaluate import Answer
from bsft_nb.results.table import write_table
from bsft_nb.results.table_file import compare_rows
from bsft_nb.results.verdict import (
    FEW,
    Verdict,
    paired_interval,
    resampled_means,
    spent,
    verdict,
)
from bsft_nb.run.folder import RunFolder


def table(path, latency=None, cost=None, errors=None, **scores):
    "Columns by their scores; `None` stands for an answer without one; `errors`: column → rows that failed."
    n = len(next(iter(scores.values()), []))
    examples = [dspy.Example(q=i).with_inputs("q") for i in range(n)]

    def answer(c, i, s):
        if i in (errors or {}).get(c, ()):
            return Answer(error="ValueError: x", latency=99.0)
        return Answer({"a": "x"}, score=s, latency=(latency or {}).get(c), cost=(cost or {}).get(c))

    columns = {c: [answer(c, i, s) for i, s in enumerate(v)] for c, v in scores.items()}
    return write_table(path / "compare.jsonl", compare_rows(examples, columns))


def ones(k, n):
    return [1.0] * k + [0.0] * (n - k)


def test_nothing_to_judge(tmp_path):
    for scores in ({}, {"tuned": [1.0] * 50}, {"teacher": [1.0] * 50}, {"teacher": [None] * 50, "tuned": [1.0] * 50}, {"teacher": [math.nan] * 50, "tuned": [1.0] * 50}):
        v = verdict(table(tmp_path, **scores))
        assert v.decision == "nothing to judge" and v.n == 0 and v.retained is None and v.difference is None
        assert "cannot be compared" in v.text() and "nan" not in v.text()


def test_without_a_teacher_the_gain_of_the_training_is_still_judged(tmp_path):
    v = verdict(table(tmp_path, tuned=ones(50, 60), untuned=ones(10, 60)))
    assert v.decision == "better than untuned; teacher not compared" and v.n == 0 and "is better than before training" in v.text() and "cannot be compared" in v.text()
    v = verdict(table(tmp_path, tuned=[1.0, 0.0] * 30, untuned=[0.0, 1.0] * 29 + [0.0, 0.0]))
    assert v.decision == "no gain shown; teacher not compared" and v.examples_to_improve > 60 and "more, a difference of" in v.text()
    assert verdict(table(tmp_path, tuned=ones(9, 10), untuned=ones(1, 10))).decision == "too little evidence"


def test_what_is_not_shown_has_a_price_and_a_number_of_examples_that_decide(tmp_path):
    teacher, tuned = [1.0] * 80 + [0.0] * 20, [1.0] * 74 + [0.0] * 6 + [1.0] * 4 + [0.0] * 16
    v = verdict(table(tmp_path, teacher=teacher, tuned=tuned))
    assert v.difference == pytest.approx(-0.02) and v.difference_interval[0] < 0 < v.difference_interval[1]
    sd = np.std(np.array(tuned) - teacher, ddof=1)
    assert v.examples_to_decide == math.ceil((2.8 * sd / 0.02) ** 2) and v.at_worst == pytest.approx(-v.difference_interval[0])
    assert f"On about {v.examples_to_decide:,} examples, {v.examples_to_decide - 100:,} more" in v.text()
    assert f"as much as {math.ceil(1000 * v.at_worst - 1e-9):,} wrong ones more in 1,000" in v.text()
    assert verdict(table(tmp_path, teacher=[1.0] * 60, tuned=[1.0] * 60)).at_worst == 0.05


def test_a_clear_case(tmp_path):
    v = verdict(table(tmp_path, teacher=ones(190, 200), tuned=ones(160, 200), untuned=ones(20, 200), latency={"teacher": 2.0, "tuned": 0.5}, cost={"teacher": 0.01, "tuned": 0.0}), seconds=300, cost=5)
    assert v.decision == "behind the teacher" and v.n == 200 and v.scores == {"teacher": 0.95, "tuned": 0.8, "untuned": 0.1}
    assert v.retained == pytest.approx(160 / 190) and v.retained_interval[0] < v.retained < v.retained_interval[1]
    se = math.sqrt(0.15 * 0.85 / 200)  # of the share of rows that only the teacher has right
    assert v.difference_interval == pytest.approx((-0.15 - 1.96 * se, -0.15 + 1.96 * se), abs=0.012)
    assert v.improvement == pytest.approx(0.7) and v.improvement_interval[0] > 0.6
    assert (v.latency_ratio, v.cost_ratio, v.calls_to_repay_time, v.calls_to_repay_cost) == (0.25, 0.0, 200, 500)
    assert "keeps 84% of the teacher's score" in v.text() and "is better than before training: +0.7" in v.text()
    assert "After 200 answers, the 300 s spent on the run are repaid." in v.text()
    assert "After 500 answers, the 5 US$ spent on the run is repaid." in v.text()


def test_the_same_seed_gives_the_same_verdict(tmp_path):
    t = table(tmp_path, teacher=ones(90, 100), tuned=ones(80, 100))
    assert verdict(t) == verdict(t) and verdict(t, seed=1).retained_interval != verdict(t).retained_interval


def test_teacher_of_zero(tmp_path):
    v = verdict(table(tmp_path, teacher=[0.0] * 40, tuned=ones(20, 40)))
    assert v.retained is None and v.retained_interval is None and v.difference == 0.5
    assert v.decision == "ahead of the teacher" and "The teacher scores 0 on average, so a share of its score cannot be given; the tuned student scores 0.5" in v.text()
    v = verdict(table(tmp_path, teacher=ones(1, 40), tuned=[0.0] * 40))
    assert v.retained == 0 and v.retained_interval is None and "too near 0" in v.text()
    v = verdict(table(tmp_path, teacher=[-1.0] * 40, tuned=[-2.0] * 40))
    assert v.retained is None and v.decision == "behind the teacher"


def test_all_equal(tmp_path):
    v = verdict(table(tmp_path, teacher=[1.0] * 60, tuned=[1.0] * 60, untuned=[1.0] * 60))
    assert v.retained_interval == (1.0, 1.0) and v.decision == "no difference from the teacher shown"
    assert "up to 5% of other examples may still differ" in v.text() and "improved the student is not shown: +0" in v.text()
    v = verdict(table(tmp_path, teacher=[0.0] * 60, tuned=[0.0] * 60))
    assert v.decision == "too little evidence" and v.retained is None  # both never right: equal, and good for nothing


@pytest.mark.parametrize("n", [1, 2, FEW - 1])
def test_few_examples_decide_nothing(tmp_path, n):
    for teacher, tuned, untuned in ((1, 1, 0), (1, 0, 1), (0, 1, 0)):
        v = verdict(table(tmp_path, teacher=[float(teacher)] * n, tuned=[float(tuned)] * n, untuned=[float(untuned)] * n))
        assert v.decision == "too little evidence" and "too few to decide on" in v.text()
        assert "Do not use" not in v.text() and "The tuned student is" not in v.text()
    assert ("1 example is too few" if n == 1 else f"{n} examples are too few") in v.text()


def test_worse_than_before(tmp_path):
    v = verdict(table(tmp_path, teacher=ones(90, 100), tuned=ones(20, 100), untuned=ones(50, 100)))
    assert v.decision == "worse than the untuned student" and "is worse than before training: -0.3" in v.text() and "Do not use it." in v.text()


def test_a_wide_interval_is_thin_evidence(tmp_path):
    rng = np.random.default_rng(0)
    v = verdict(table(tmp_path, teacher=list((rng.random(40) < 0.5).astype(float)), tuned=list((rng.random(40) < 0.5).astype(float))))
    assert v.difference_interval[0] <= 0 <= v.difference_interval[1] and v.decision == "too little evidence"
    assert "points wide" in v.text() and "that is not the same as none" in v.text()
    assert "The untuned student was not scored" in v.text()


def test_failures_count_and_unknown_scores_do_not(tmp_path):
    v = verdict(table(tmp_path, teacher=[1.0] * 40, tuned=[1.0] * 30 + [None] * 10, errors={"tuned": range(10)}, latency={"teacher": 1.0, "tuned": 0.5}))
    assert v.n == 30 and v.retained == pytest.approx(20 / 30) and v.latency_ratio == 0.5
    assert "10 of the tuned column's answers failed; they score 0." in v.text() and "10 of the tuned column's answers have no score and are left out." in v.text()


def test_a_slower_student_never_repays(tmp_path):
    v = verdict(table(tmp_path, teacher=[1.0] * 40, tuned=[1.0] * 40, latency={"teacher": 0.5, "tuned": 1.0}, cost={"teacher": 0.0, "tuned": 0.0}), seconds=10)
    assert v.calls_to_repay_time == math.inf and "No number of answers repays the 10 s" in v.text()
    assert v.cost_ratio is None and v.calls_to_repay_cost is None and "Mean cost of an answer: 0 US$ tuned, 0 US$ teacher." in v.text()


def test_the_interval_covers_the_truth():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(200):
        teacher = rng.random(100) < 0.8
        tuned = np.where(rng.random(100) < 0.7, teacher, rng.random(100) < 0.6)
        low, high = paired_interval(np.stack([tuned, teacher], 1).astype(float), lambda m: m[:, 0] - m[:, 1])
        hits += low <= 0.3 * (0.6 - 0.8) <= high
    assert 0.9 <= hits / 200 <= 0.99


def test_both_ways_of_resampling_agree():
    rng = np.random.default_rng(0)
    few = rng.integers(0, 2, (300, 2)).astype(float)
    many = few + 1e-9 * rng.random((300, 2))  # the same scores, each of its own kind
    a, b = (resampled_means(x) for x in (few, many))
    assert a.shape == b.shape == (2000, 2)
    assert np.allclose(a.std(0), b.std(0), rtol=0.1) and np.allclose(np.corrcoef(a.T), np.corrcoef(b.T), atol=0.1)


def test_card_and_text_say_the_same(tmp_path):
    v = verdict(table(tmp_path, teacher=ones(90, 100), tuned=ones(80, 100)))
    assert faults(v.html()) == [] and v._repr_html_() == v.html() and str(v) == v.text()
    assert v.html().count("<li") == len(v.words) == v.text().count("\n- ")
    assert "class=" not in v.html()
    with pytest.raises(AttributeError):
        v.n = 3
    assert Verdict("nothing to judge").text() == "Verdict: nothing to judge"


def test_what_a_run_spent(tmp_path):
    folder = RunFolder(tmp_path)
    assert spent(folder) == (None, None)
    folder.update(seconds={"bootstrap": 2.0, "train": 3.0})
    for cost in (0.25, None, 0.5):
        folder.log.emit("trace", kept=True, reason="", score=1.0, attempt=0, again=False, cost=cost)
    assert spent(folder) == (5.0, 0.75)


@pytest.mark.parametrize("n", [0, 1, 29])
def test_the_advice_is_a_call_that_can_be_made(tmp_path, n):
    from bsft_nb.optimizer.run import Run

    text = verdict(table(tmp_path, teacher=ones(n, n) or [1.0], tuned=ones(n, n) or [None])).text()
    calls = re.findall(r"run\.\w+\(.*\)", text)
    assert calls
    for call in calls:
        tree = ast.parse(call, mode="eval").body
        bound = inspect.signature(getattr(Run, tree.func.attr)).bind("self", *tree.args, **{k.arg: k.value for k in tree.keywords})
        assert set(bound.arguments) == {"run", "program", "examples", "metric", "teacher", "teacher_settings"}
