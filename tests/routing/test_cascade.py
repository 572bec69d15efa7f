"""Cascades: the promise is kept, on synthetic students and on a trained one; what is paid for is paid once; what is kept is learned from."""
import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dspy
import numpy as np
import pytest
from sorting import KINDS, Sort, examples, same_kind

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.cli.screen import status_data, status_lines
from bsft_nb.lessons import teacher_lm
from bsft_nb.notebook.commands import run_status
from bsft_nb.optimizer.portable import run_files
from bsft_nb.routing.calibration import (
    Calibration,
    Evidence,
    Tried,
    calibrate,
    calibrate_calls,
    halves,
)
from bsft_nb.routing.cascade import Cascade
from bsft_nb.routing.heard import Heard, hearing, listening
from bsft_nb.routing.kept import Keeping, kept_figures
from bsft_nb.routing.predictors import PredictorCascade
from bsft_nb.routing.promise import Promise, Rows, lowest, margins, sequence
from bsft_nb.routing.signals import Scale, concordance
from bsft_nb.run.files import read_lines
from bsft_nb.teacher.keys import ledger_path

SPLITS = 200


def population(n, rng, errors, graded):
    "Two signals, of which one ranks errors, and scores of student and teacher."
    sure = rng.random(n)
    student = (rng.random(n) >= errors * 3 * (1 - sure) ** 2).astype(float)
    teacher = (rng.random(n) < 0.95).astype(float)
    return (np.stack([rng.random(n), sure], 1), student * rng.choice([0.8, 1.0], n), teacher * rng.choice([0.8, 1.0], n)) if graded else (np.stack([rng.random(n), sure], 1), student, teacher)


def threshold_of(promise, signals, student, teacher):
    "Signal and threshold, as `calibrate` chooses them: the signal on some of the rows, the threshold on the others."
    chosen, tested = halves(len(student))
    signal = max(range(signals.shape[1]), key=lambda s: concordance(signals[chosen, s], student[chosen]) or 0.0)
    rows = Rows(signals[:, signal], student, teacher)
    first = rows.take(chosen)
    return signal, lowest(promise, first, rows.take(tested), sequence(promise, first))[0]


NOISE = 0.05 * SPLITS + 2 * np.sqrt(SPLITS * 0.05 * 0.95)


@pytest.mark.parametrize(("kind", "level", "errors", "graded"), [("retain", 0.97, 0.1, False), ("max_error", 0.05, 0.1, False), ("retain", 0.95, 0.06, True), ("max_error", 0.2, 0.1, True)])
def test_the_promise_is_broken_in_at_most_one_of_twenty_splits(kind, level, errors, graded):
    rng, promise, broken, useful = np.random.default_rng(7), Promise(kind, level), 0, 0
    signals, student, teacher = population(50_000, rng, errors, graded)
    for _ in range(SPLITS):
        some = rng.choice(len(student), 400, replace=False)
        signal, threshold = threshold_of(promise, signals[some], student[some], teacher[some])
        true = margins(promise, Rows(signals[:, signal], student, teacher), threshold)
        broken += len(true) > 0 and true.mean() < 0
        useful += np.isfinite(threshold)
    assert broken <= NOISE, f"{broken} of {SPLITS}"
    assert useful > SPLITS / 4, "a promise that is never given proves nothing"


def whatever(case, n, rng):
    "Confidence, and scores of student and teacher, where the two are not independent, or confidence says little."
    sure, hard = rng.random(n), rng.random(n)
    wrong = {"correlated": hard < 0.1 * (1.4 - 1.3 * sure), "opposed": hard < 0.2 * (1 - sure), "ties": hard < 0.12 * (1 - sure), "blind": hard < 0.03}[case]
    teacher = {"correlated": hard >= 0.08, "opposed": hard < 0.93, "ties": rng.random(n) < 0.97, "blind": rng.random(n) < 0.98}[case]
    return (np.round(2 * sure) / 2 if case == "ties" else sure), (~wrong).astype(float), teacher.astype(float)


@pytest.mark.parametrize(("case", "n"), [("correlated", 400), ("opposed", 400), ("blind", 400), ("ties", 150)])
@pytest.mark.parametrize(("kind", "level"), [("retain", 0.93), ("max_error", 0.1)])
def test_the_promise_needs_no_independence_no_distinct_confidences_and_no_many_examples(case, n, kind, level):
    "Errors of student and teacher fall on the same examples or on opposite ones, confidence has three values or knows nothing, and there are few examples."
    rng, promise, broken, useful = np.random.default_rng(11), Promise(kind, level), 0, 0
    sure, student, teacher = whatever(case, 50_000, rng)
    everything = Rows(sure, student, teacher)
    for _ in range(SPLITS):
        some = rng.choice(len(student), n, replace=False)
        _, threshold = threshold_of(promise, sure[some, None], student[some], teacher[some])
        true = margins(promise, everything, threshold)
        broken += len(true) > 0 and true.mean() < 0
        useful += np.isfinite(threshold)
    assert broken <= NOISE, f"{broken} of {SPLITS}"
    assert useful > SPLITS / 20, f"given in {useful} of {SPLITS}: a promise that is never given proves nothing"


def test_the_promise_of_routed_calls_is_broken_in_at_most_one_of_twenty_splits():
    "Two calls an answer: what the second is asked, and so how sure it is, follows from who answered the first."
    rng, promise, broken, useful, n, splits = np.random.default_rng(5), Promise("retain", 0.93), 0, 0, 240, 100
    sure = rng.random((20_000, 3))  # of the first call; of the second, after the student and after the teacher
    wrong = rng.random((20_000, 3)) < 0.12 * (1.6 - 1.5 * sure)
    teacher = rng.random(20_000) < 0.97

    def answered(rows, level, known):  # scores, and was the teacher asked?
        ranks = [np.searchsorted(known[min(c, 1)], sure[rows, c]) / len(known[min(c, 1)]) for c in range(3)]
        first, second = ranks[0] >= level, np.where(ranks[0] >= level, ranks[1], ranks[2]) >= level
        errs = (first & wrong[rows, 0]) | (second & np.where(first, wrong[rows, 1], wrong[rows, 2]))
        return np.where(first | second, ~errs & (teacher[rows] | second), teacher[rows]).astype(float), ~(first & second)

    for _ in range(splits):
        rows = rng.choice(len(sure), n, replace=False)
        known = [np.sort(sure[rows[halves(n)[0]], c]) for c in (0, 1)]
        own = (~wrong[rows, 0] & ~wrong[rows, 1]).astype(float)
        heard = [[Heard("a", (float(x) - 1,)), Heard("b", (float(y) - 1,))] for x, y, _ in sure[rows]]
        c = calibrate_calls(promise, Evidence(heard, own, teacher[rows].astype(float)), lambda scale, level, rows=rows, known=known: Tried(*answered(rows, level, known)), "sum")
        score = answered(np.arange(len(sure)), c.threshold, known)[0].mean()
        broken += score < 0.93 * teacher.mean()
        useful += np.isfinite(c.threshold) and c.sent < 1
    assert broken <= 0.05 * splits + 2 * np.sqrt(splits * 0.05 * 0.95), f"{broken} of {splits}"
    assert useful > splits / 4


def test_a_student_exactly_as_bad_as_permitted_is_let_through_in_at_most_one_of_twenty_splits():
    rng, passed = np.random.default_rng(3), {"retain": 0, "max_error": 0}
    for _ in range(SPLITS):
        signals, student = rng.random((400, 2)), (rng.random(400) < 0.9).astype(float)
        passed["max_error"] += np.isfinite(threshold_of(Promise("max_error", 0.1), signals, student, None)[1])
        passed["retain"] += threshold_of(Promise("retain", 0.9), signals, student, np.ones(400))[1] <= 0
    assert max(passed.values()) <= NOISE, passed


def test_calibrate_chooses_as_the_simulation_does():
    signals, student, teacher = population(400, np.random.default_rng(1), 0.1, False)
    heard = [[Heard("say", (float(a - 1),), (float(b),))] for a, b in signals]
    for promise in (Promise("retain", 0.96), Promise("max_error", 0.05)):
        c = calibrate(promise, Evidence(heard, student, teacher))
        signal, threshold = threshold_of(promise, signals, student, teacher)
        assert c.scale.signal == ("sum", "margin")[signal] == "margin"
        assert np.isfinite(c.threshold) and abs(np.mean(signals[:, 1] < threshold) - c.sent) < 0.03, "ranks do not change the order"


def always_right(text):
    words = text.split("## words ## ]]")[-1].split("[[")[0].split()
    return {"kind": next(KINDS[w] for w in words if w in KINDS)}


@pytest.fixture(scope="module")
def trained(llama, tmp_path_factory):
    "A student to which owls are news, in a run whose folder outlives the tests' own homes."
    lm, place = teacher_lm(always_right), tmp_path_factory.mktemp("cascade")
    tp = BootstrapFinetune(same_kind, dict(lm=lm))
    known = [e for e in examples(300, 0) if "owl" not in e.words.split()]
    compiled = tp.compile(dspy.Predict(Sort), trainset=known, target=llama, run_dir=place / "run", bsize=8, lr=3e-3, epochs=6, display=False)
    return tp, lm, compiled, place


def test_a_trained_student_sends_on_what_it_does_not_know(trained, tmp_path):
    tp, lm, compiled, _ = trained
    held, fresh = examples(400, 1), examples(100, 2)
    c = bsft_nb.cascade(compiled, dspy.Predict(Sort), same_kind, examples=held, teacher_settings=dict(lm=lm), retain=0.95)
    asked = lm.engine.calls
    said = [c(**e.inputs()) for e in fresh]
    right = np.array([same_kind(e, p) for e, p in zip(fresh, said)])
    assert c.calibration.scores["student"] < 0.9 < 0.95 <= right.mean() + 2 * np.sqrt(0.05 * 0.95 / 100), (c.calibration.scores, right.mean())
    assert lm.engine.calls - asked == sum(p.routing.by == "teacher" for p in said) < 80
    assert max(a for a in c.calibration.auroc.values()) > 0.7
    again = bsft_nb.cascade(compiled, dspy.Predict(Sort), same_kind, examples=held, teacher_settings=dict(lm=lm), retain=0.9)
    assert lm.engine.calls - asked == sum(p.routing.by == "teacher" for p in said), "calibration is paid for once"
    assert again.calibration.sent <= c.calibration.sent, "a weaker promise sends no more"
    assert "Shown on 300 held-out examples" in str(c.report()) and "<svg" in c.report()._repr_html_()


def test_a_cascade_uses_the_ledger_of_the_compile(trained, llama):
    assert ledger_path(trained[2]) == ledger_path(dspy.Predict(Sort)) != ledger_path(dspy.ChainOfThought(Sort))


def test_a_saved_cascade_answers_the_same_in_a_fresh_process(trained, tmp_path):
    tp, lm, compiled, _ = trained
    c = bsft_nb.cascade(compiled, lm, same_kind, examples=examples(200, 1), max_error=0.2)
    c.save(tmp_path / "cascade.json")
    words = [e.words for e in examples(12, 5)]
    code = f"""
import json, sys
sys.path.insert(0, "tests")
import dspy, bsft_nb
from sorting import Sort
from bsft_nb.lessons import teacher_lm
compiled = bsft_nb.load({str(tp.run.path)!r}, dspy.Predict(Sort))
c = bsft_nb.cascade(compiled, teacher_lm(lambda text: {{"kind": "tool"}}), saved={str(tmp_path / "cascade.json")!r})
said = [c(words=w) for w in {words!r}]
print(json.dumps([[p.routing.by, round(p.routing.confidence, 3), p.kind if p.routing.by == "student" else ""] for p in said]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = [c(words=w) for w in words]
    assert json.loads(done.stdout.splitlines()[-1]) == [[p.routing.by, round(p.routing.confidence, 3), p.kind if p.routing.by == "student" else ""] for p in here]
    assert {p.routing.by for p in here} == {"student", "teacher"}


def test_what_a_cascade_kept_is_learned_from(trained, llama, tmp_path):
    tp, lm, compiled, _ = trained
    c = Cascade(compiled, dspy.Predict(Sort), Calibration(Promise("retain", 0.98), Scale("sum"), np.inf), dict(lm=lm), keep=Keeping(tmp_path / "kept.jsonl"))  # all is sent to the teacher
    new = [e for e in examples(60, 3) if "owl" in e.words.split()]
    for e in new:
        c(**e.inputs())
    with open(tmp_path / "kept.jsonl", "ab") as f:
        f.write(b'{"routing": {"by": "tea')  # killed in the middle of a line
    c(words="three red owl one")
    asked = lm.engine.calls
    again = BootstrapFinetune(same_kind, dict(lm=lm))
    tp.run.export(tmp_path / "traces.jsonl", what="traces")
    again.compile(dspy.Predict(Sort), trainset=examples(300, 0)[:50], target=llama, traces=[tmp_path / "traces.jsonl", tmp_path / "kept.jsonl"], bsize=32, display=False)
    assert lm.engine.calls == asked, "the teacher is not asked"
    trained_on = {p.rpartition("words: ")[2].partition("\n")[0]: done for p, done in zip(again.run.pairs["train"]["prompt"], again.run.pairs["train"]["completion"])}
    rows = read_lines(tmp_path / "kept.jsonl")
    assert len(rows) == len(new) + 1 and all(trained_on[r["inputs"]["words"]] == "animal" for r in rows), "all that was sent on is trained on, as the teacher answered it"
    assert any("owl" not in words for words in trained_on), "beside what the run was trained on"
    assert kept_figures(tmp_path / "kept.jsonl")["sent"] == 1.0
    with pytest.raises(ValueError, match=r"traces=\[\]"):
        again.compile(dspy.Predict(Sort), trainset=examples(20, 0), target=llama, traces=[], display=False)
    with pytest.raises(FileNotFoundError, match="nothing.jsonl"):
        again.compile(dspy.Predict(Sort), trainset=examples(20, 0), target=llama, traces=[tmp_path / "kept.jsonl", tmp_path / "nothing.jsonl"], display=False)


def test_streams_as_a_module_does(trained):
    _, lm, compiled, _ = trained
    c = bsft_nb.cascade(compiled, lm, same_kind, examples=examples(200, 1), max_error=0.2)
    listener = dspy.streaming.StreamListener("kind", predict=c.student, predict_name="student")
    program = dspy.streamify(c, stream_listeners=[listener])

    async def heard():
        return [chunk async for chunk in program(words="one rose red two")]

    *chunks, last = asyncio.run(heard())
    assert last.routing.by == "student" and "".join(x.chunk for x in chunks if hasattr(x, "chunk")) == last.kind == "plant"


def test_cached_answers_are_as_sure_as_fresh_ones(trained):
    _, _, compiled, _ = trained
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    sure, found = listening(compiled), []
    for _ in range(2):
        with hearing() as heard:
            sure(words="one rose red two")
        found.append(heard)
    assert found[0] == found[1] and found[0][0].logprobs


@pytest.mark.slow
def test_routed_calls_keep_the_promise_and_are_paid_once(trained):
    tp, lm, compiled, _ = trained
    held, fresh = examples(200, 1), examples(60, 2)
    made = [bsft_nb.cascade(compiled, dspy.Predict(Sort), same_kind, examples=held, teacher_settings=dict(lm=lm), retain=0.9, per="predictor")]
    asked = lm.engine.calls
    made.append(bsft_nb.cascade(compiled, dspy.Predict(Sort), same_kind, examples=held, teacher_settings=dict(lm=lm), retain=0.9, per="predictor"))
    assert lm.engine.calls == asked, "calibration is paid for once"
    c = made[0]
    assert 0 < c.calibration.threshold < 1 and c.calibration.calls.keys() == {"self"}
    once = [c(**e.inputs()) for e in fresh]
    assert lm.engine.calls - asked == sum(p.routing.by == "teacher" for p in once) < 60
    assert np.mean([same_kind(e, p) for e, p in zip(fresh, once)]) >= 0.9 - 2 * np.sqrt(0.1 * 0.9 / 60)

    async def awaited():
        return await asyncio.gather(*(c.acall(**e.inputs()) for e in fresh))

    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(lambda e: c(**e.inputs()), fresh))
    for others in (threads, asyncio.run(awaited())):
        assert [(p.kind, p.routing.by) for p in others] == [(p.kind, p.routing.by) for p in once]
    program = dspy.streamify(c, stream_listeners=[dspy.streaming.StreamListener("kind", predict=c.student, predict_name="student")])

    async def streamed(words):
        return [chunk async for chunk in program(words=words)]

    own = next(e.words for e, p in zip(fresh, once) if p.routing.by == "student")
    *chunks, last = asyncio.run(streamed(own))
    assert last.routing.by == "student" and "".join(x.chunk for x in chunks if hasattr(x, "chunk")) == last.kind


def test_a_teacher_that_is_down_costs_no_answer(trained):
    _, lm, compiled, _ = trained
    down = teacher_lm(lambda text: 1 / 0)
    for kind, per in ((Cascade, "program"), (PredictorCascade, "predictor")):
        c = kind(compiled, dspy.Predict(Sort), Calibration(Promise("retain", 0.9), Scale("sum"), np.inf, per=per), dict(lm=down), timeout=5)
        alone = compiled(words="one rose red two")
        for said in (c(words="one rose red two"), asyncio.run(c.acall(words="one rose red two"))):
            assert said.kind == alone.kind and said.routing.by == "student" and "division by zero" in said.routing.failed
        assert c.report().failed == 2 and "2 answers are the student's because the teacher failed" in str(c.report())


def test_drift_is_seen_from_elsewhere(trained, tmp_path):
    tp, lm, compiled, _ = trained
    assert status_data(tp.run)["cascade"] == []
    c = bsft_nb.cascade(compiled, lm, same_kind, examples=examples(200, 1), max_error=0.2, keep=tmp_path / "kept.jsonl")
    assert status_data(tp.run)["cascade"] == ["No question was answered yet."]
    for e in [e for e in examples(400, 4) if "owl" in e.words.split()][:40]:  # the student was never taught these
        c(words=" ".join([e.words] * 6))
    told = status_data(tp.run)["cascade"]
    assert told[0].startswith("Since then 40 answers") and any("Drift: inputs have" in w for w in told) and any("Drift: the share sent" in w or "Drift: the student is less sure" in w for w in told)
    assert [line for line in status_lines(tp.run) if "  cascade  " in line and "Drift" in line] and "Drift" in str(run_status(tp.run)) and "Drift" in run_status(tp.run)._repr_html_()
    done = subprocess.run([sys.executable, "-c", "from bsft_nb.cli import main; main()", "status", str(tp.run.path)], capture_output=True, text=True)
    assert "Drift: inputs have" in done.stdout, done.stderr
    assert "kept.json" not in run_files(tp.run.folder), "a path of this machine is not packed"
