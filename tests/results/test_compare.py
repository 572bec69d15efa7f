"Answers, the table on the disk, filters, slices, diffs."
import json
import math
import time

import dspy
import numpy as np
import pytest
from hostile import HOSTILE, faults
from hypothesis import given, settings
from hypothesis import strategies as st

from bsft_nb.lessons import teacher_lm
from bsft_nb.results.escape import (
    attribute,
    clean,
    diff_html,
    diff_text,
    safe,
    token_diff,
)
from bsft_nb.results.evaluate import Answer, evaluate
from bsft_nb.results.table import FILTERS, Table, open_table, wilson, write_table
from bsft_nb.results.table_file import COLUMNS, compare_rows, to_examples
from bsft_nb.run.events import Stopped, StopSignal
from bsft_nb.run.folder import RunFolder


class Loop(dspy.Module):
    "Asks one predictor twice and another once."

    def __init__(self):
        super().__init__()
        self.hop, self.last = dspy.Predict("question -> hint"), dspy.Predict("question, hint -> answer")

    def forward(self, question):
        if "fail" in question:
            raise RuntimeError(f"cannot do {question}")
        for _ in range(2):
            hint = self.hop(question=question).hint
        return self.last(question=question, hint=hint)


def reply(text):
    n = text.split("[[ ## question ## ]]\n")[1].split("\n")[0]
    return {"answer": n.upper()} if "[[ ## hint ## ]]\n" in text.split("Respond")[0] else {"hint": f"hint {n}"}


def questions(*texts):
    return [dspy.Example(question=t, answer=t.upper()).with_inputs("question") for t in texts]


def right(example, prediction, trace=None):
    assert trace is None
    return prediction.answer == example.answer


def test_answers_are_in_order_with_calls_of_their_own():
    examples = questions(*(f"q{i}" for i in range(30)))
    answers = evaluate(Loop(), examples, right, lm=teacher_lm(reply), num_threads=8)
    for e, a in zip(examples, answers):
        assert a.outputs == {"answer": e.answer} and a.score == 1.0 and a.error is None
        assert [c.predictor for c in a.calls] == ["hop", "hop", "last"]
        assert all(c.inputs["question"] == e.question for c in a.calls)
        assert a.tokens == 6 and a.cost is None and a.latency > 0 and a.cached == 0


def test_a_failing_row_is_a_row_with_an_error():
    answers = evaluate(Loop(), questions("a", "fail", "b"), right, lm=teacher_lm(reply))
    assert [a.score for a in answers] == [1.0, None, 1.0]
    assert answers[1].error == "RuntimeError: cannot do fail" and "in forward" in answers[1].traceback


@pytest.mark.parametrize(("metric", "message"), [(lambda e, p, t: 1 / 0, "the metric failed: ZeroDivisionError"), (lambda e, p, t: math.nan, "the metric returned nan"), (lambda e, p, t: "yes", "the metric failed: TypeError")])
def test_a_failing_metric_keeps_the_answer(metric, message):
    answer = evaluate(Loop(), questions("a"), metric, lm=teacher_lm(reply))[0]
    assert answer.outputs == {"answer": "A"} and answer.score is None and answer.error.startswith(message)


def test_without_a_metric_there_is_no_score():
    assert evaluate(Loop(), questions("a"), lm=teacher_lm(reply))[0].score is None


def test_cached_answers_are_counted(tmp_path):
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    lm = dspy.LM("scripted/teacher", engine=teacher_lm(reply).engine)
    first, second = (evaluate(Loop(), questions("c"), right, lm=lm)[0] for _ in range(2))
    assert (first.cached, second.cached) == (1, 3)  # the loop asks the same twice
    table = write_table(tmp_path / "t.jsonl", compare_rows(questions("c"), {"teacher": [second]}))
    assert np.isnan(table.figures("teacher", "latency")).all()


def test_a_stop_ends_the_evaluation(tmp_path):
    stop = StopSignal(tmp_path / "control")
    lm = teacher_lm(reply)
    with pytest.raises(Stopped):
        evaluate(Loop(), questions(*"abcdef"), right, lm=lm, num_threads=1, stop=stop, on_answer=lambda i, a: stop.request())
    assert lm.engine.calls == 3  # one example


def answer(text, score, **more):
    return Answer({"answer": text}, score=score, **{"latency": 1.0, **more})


def small(path, threshold=None):
    examples = questions("same", "lost", "won", "neither", "broken", "unknown")
    columns = {
        "teacher": [answer("SAME", 1.0), answer("LOST", 1.0), answer("?", 0.0), answer("?", 0.0), answer("BROKEN", 1.0), answer("x", 1.0)],
        "tuned": [answer("SAME", 1.0), answer("lost", 0.0), answer("WON", 1.0), answer("!", 0.0), Answer(error="ValueError: no"), answer("y", None, error="the metric failed: E: x")],
        "untuned": [answer("same", 0.0), answer("l", 0.0), answer("w", 0.0), answer("n", 0.0), answer("b", 0.0), answer("u", 0.0)],
    }
    write_table(path, compare_rows(examples, columns, run="r1"))
    return Table(path, threshold)


def test_filters(tmp_path):
    table = small(tmp_path / "compare.jsonl")
    assert {f: table.select(f).tolist() for f in FILTERS} == {"all": [0, 1, 2, 3, 4, 5], "regressed": [1, 4], "fixed": [0, 2], "both wrong": [3], "differs": [1, 2, 3, 4, 5], "failed": [4]}
    with pytest.raises(ValueError, match="filter 'lost' is not one of all, regressed"):
        table.select("lost")


def test_the_threshold_says_what_is_right(tmp_path):
    examples = questions("a", "b")
    write_table(tmp_path / "t.jsonl", compare_rows(examples, {"teacher": [answer("A", 0.9), answer("B", 0.4)], "tuned": [answer("A", 0.5), answer("B", 0.5)]}))
    assert Table(tmp_path / "t.jsonl").select("regressed").tolist() == []
    assert Table(tmp_path / "t.jsonl", 0.6).select("regressed").tolist() == [0]
    assert Table(tmp_path / "t.jsonl", 0.6).select("both wrong").tolist() == [1]


def test_a_missing_column_is_in_no_filter(tmp_path):
    table = write_table(tmp_path / "t.jsonl", compare_rows(questions("a"), {"tuned": [answer("A", 0.0)]}))
    assert table.columns == ["tuned"]
    assert [len(table.select(f)) for f in FILTERS] == [1, 0, 0, 0, 0, 0]


def test_rows_come_back_as_written(tmp_path):
    table = small(tmp_path / "compare.jsonl")
    rows = table.page(table.select("regressed"))
    assert [(r["row"], r["inputs"], r["labels"], r["run"]) for r in rows] == [(1, {"question": "lost"}, {"answer": "LOST"}, "r1"), (4, {"question": "broken"}, {"answer": "BROKEN"}, "r1")]
    assert rows[1]["columns"]["tuned"]["error"] == "ValueError: no"
    assert to_examples(rows)[0].inputs().toDict() == {"question": "lost"}


def test_search_sort_and_slices(tmp_path):
    table = small(tmp_path / "compare.jsonl")
    assert table.select(search="LoSt").tolist() == [1]
    assert table.select(search="outputs").tolist() == []  # the name of a field, in no text
    assert table.select(search="metric failed").tolist() == [5]
    assert table.select(sort="inputs.question").tolist() == [4, 1, 3, 0, 5, 2]
    assert table.select(sort="tuned.score", descending=True).tolist() == [0, 2, 1, 3, 4, 5]  # unknown last
    assert table.select(where=("labels.answer", "WON")).tolist() == [2]
    assert "tuned.outputs.answer" in table.fields() and "labels.answer" in table.fields()
    lost = next(s for s in table.slices("inputs.question") if s.value == "lost")
    assert (lost.n, lost.wins, lost.losses, lost.rate) == (1, 0, 1, 0.0) and lost.high < 1
    whole = table.slices("run")[0]
    assert (whole.value, whole.n, whole.wins, whole.losses) == ("r1", 5, 1, 2)
    assert (whole.low, whole.high) == wilson(1, 3)


def test_numbers_sort_as_numbers(tmp_path):
    examples = [dspy.Example(n=n).with_inputs("n") for n in (10, 9, 100)]
    table = write_table(tmp_path / "t.jsonl", compare_rows(examples, {"tuned": [answer("x", 1.0)] * 3}))
    assert table.select(sort="inputs.n").tolist() == [1, 0, 2]


def test_columns_are_checked():
    with pytest.raises(ValueError, match="'student'.*columns are teacher, tuned, untuned"):
        list(compare_rows(questions("a"), {"student": [answer("A", 1.0)]}))
    with pytest.raises(ValueError, match="with 0 answers to 1 example:"):
        list(compare_rows(questions("a"), {"tuned": []}))


def test_the_index_is_made_again_when_it_does_not_fit(tmp_path):
    path = tmp_path / "compare.jsonl"
    before = small(path)
    index = path.with_suffix(".index.npz")
    whole = index.read_bytes()
    for broken in (b"", whole[:-50], b"no archive"):
        index.write_bytes(broken)
        assert Table(path).select("regressed").tolist() == before.select("regressed").tolist()
        assert len(index.read_bytes()) == len(whole)
    index.unlink()
    with open(path, "ab") as f:
        f.write(path.read_bytes().splitlines(keepends=True)[1] + b'{"example": "cut o')
    again = Table(path)
    assert len(again) == 7 and again.select("regressed").tolist() == [1, 4, 6]
    assert again.page(np.array([6]))[0]["inputs"] == {"question": "lost"}


def test_numbers_that_json_does_not_have(tmp_path):
    row = {**next(iter(compare_rows(questions("NaN"), {"tuned": [answer("A", math.nan, cost=math.inf)]}))), "labels": {"x": [math.nan, 2**80]}}
    table = write_table(tmp_path / "t.jsonl", [row])
    back = table.page(np.arange(1))[0]
    assert back["inputs"] == {"question": "NaN"} and back["labels"] == {"x": [None, 2**80]} and back["columns"]["tuned"]["cost"] is None
    json.loads((tmp_path / "t.jsonl").read_text(), parse_constant=lambda c: pytest.fail(f"{c} in the file"))


def test_an_empty_table(tmp_path):
    table = write_table(tmp_path / "t.jsonl", [])
    assert len(table) == 0 and table.columns == [] and table.page(table.select("regressed")) == [] and table.slices("run") == []
    assert all(len(Table(tmp_path / "t.jsonl").select(f)) == 0 for f in FILTERS)


def test_a_run_without_a_table_says_so(tmp_path):
    folder = RunFolder(tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="run r has no compare.jsonl"):
        open_table(folder)
    folder.update(metric_threshold=0.6)
    small(folder / "compare.jsonl")
    assert open_table(folder).threshold == 0.6


def test_a_long_table_opens_at_once(tmp_path):
    row = next(iter(compare_rows(questions("w " * 250), {c: [answer("a", 1.0)] for c in COLUMNS})))
    write_table(tmp_path / "t.jsonl", (row for _ in range(20_000)))
    began = time.perf_counter()
    table = Table(tmp_path / "t.jsonl")
    page = table.page(table.select(), 399)
    assert time.perf_counter() - began < 0.5 and len(page) == 50 and page[-1]["row"] == 19_999


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts(tmp_path, text):
    answers = {c: {"outputs": {"answer": text}, "calls": [], "score": 1.0, "error": text} for c in COLUMNS}
    table = write_table(tmp_path / "t.jsonl", [{"example": "e", "run": text, "inputs": {"question": text}, "labels": {}, "columns": answers}])
    value = table.page(table.select())[0]["columns"]["tuned"]["outputs"]["answer"]
    assert value == text
    assert faults(safe(text, 500)) == [] and len(safe(text, 500)) < 3600
    assert faults(f'<p title="{attribute(text)}">x</p>') == []
    assert faults(diff_html(token_diff(text, text[::-1]))) == []
    assert len(clean(text, 500)) < 560
    assert table.select(search=value[:40]).tolist() == [0]


def test_there_are_forty():
    assert len(set(HOSTILE)) == 40
    for text in HOSTILE[:25]:  # the check itself sees them where they are not made safe
        assert any(faults(place.format(text)) for place in ("<p>{}</p>", '<p title="{}">x</p>', "<p title='{}'>x</p>")), text


@given(st.text(max_size=60), st.text(max_size=60))
@settings(deadline=None)
def test_the_diff_holds_both_texts(a, b):
    pieces = token_diff(a, b)
    assert "".join(t for op, t in pieces if op != "+") == clean(a) and "".join(t for op, t in pieces if op != "-") == clean(b)
    assert (pieces == [("=", clean(a))] or not a) if a == b else True


def test_the_diff_of_long_texts_is_quick():
    a, b = "start " + "a b c " * 5000, "start " + "c b a " * 5000
    began = time.perf_counter()
    pieces = token_diff(a, b)
    assert time.perf_counter() - began < 1 and [op for op, _ in pieces][:3] == ["=", "-", "+"]
    assert diff_text(token_diff("a b", "a c")) == "a [-b-]{+c+}"


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_rate(case):
    low, high = wilson(*case)
    assert 0 <= low <= case[0] / case[1] + 1e-12 and case[0] / case[1] - 1e-12 <= high <= 1 and high > low
