"""A compile that went on in spite of faults: what it tells, what the next one asks again; who is asked beside the students."""
from collections import Counter

import dspy
import pydantic
import pytest

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.data.parity import asks_others
from bsft_nb.lessons import teacher_lm

QUICK = dict(bsize=8, lr=1e-3, display=False, launch="inline")


def examples(n):
    return [dspy.Example(q=f"<{i}>", a=f"a{i % 3}").with_inputs("q") for i in range(n)]


def number(text):
    return int(text.rpartition("<")[2].split(">")[0])


class Moody:
    "Answers, but for every `every`th question while `down`."

    def __init__(self, every, error):
        self.every, self.error, self.down, self.asked = every, error, True, Counter()

    def __call__(self, text):
        n = number(text)
        self.asked[n] += 1
        if self.down and n % self.every == 0:
            raise self.error
        return {"a": f"a{n % 3}"}


def warned(tp, since=0):
    return [e.data["note"] for e in tp.run.events[since:] if e.kind == "warn"]


def compiled(llama, teacher, n=12, metric=None, program=None, **made):
    lm = teacher_lm(teacher)
    lm.num_retries = 0
    tp = BootstrapFinetune(metric, dict(lm=lm), **made)
    return tp.compile(program or dspy.Predict("q -> a"), trainset=examples(n), target=llama, **QUICK), tp


def trainings(tp):
    return sum(e.kind == "train" and e.data.get("step") == 1 for e in tp.run.events)


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), TimeoutError("no answer in 60 s"), ValueError("502 Bad Gateway")])
def test_what_failed_is_told_and_asked_again_and_nothing_else(llama, error):
    teacher = Moody(4, error)
    _, tp = compiled(llama, teacher)
    assert [w for w in warned(tp) if str(error) in w and w.startswith("3 of 12 teacher attempts failed")] and tp.run.info["faults"] == {"failed": 3, "left_out": 0}
    rows, first, n = tp.run.funnel()["trained"]["all"], trainings(tp), len(tp.run.events)
    teacher.asked.clear()
    _, tp = compiled(llama, teacher)  # still down
    assert teacher.asked == {0: 1, 4: 1, 8: 1} and trainings(tp) == first, "nothing was gained: the finished student stays"
    assert [w for w in warned(tp, n) if w.startswith("3 of 12")]
    teacher.down = False
    teacher.asked.clear()
    student, tp = compiled(llama, teacher)
    assert teacher.asked == {0: 1, 4: 1, 8: 1} and trainings(tp) == first + 1 and tp.run.funnel()["trained"]["all"] > rows
    assert tp.run.status == "finished" and not any(tp.run.info["faults"].values())
    teacher.asked.clear()
    _, tp = compiled(llama, teacher)
    assert not teacher.asked and trainings(tp) == first + 1
    assert student(q="<1>").a == bsft_nb.load(tp.run.id, dspy.Predict("q -> a"))(q="<1>").a


def test_a_service_that_is_gone_does_not_take_the_finished_student_away(llama):
    teacher = Moody(4, RuntimeError("429"))
    _, tp = compiled(llama, teacher, max_errors=4)
    first = trainings(tp)
    _, tp = compiled(llama, teacher, max_errors=2)
    assert tp.run.status == "finished" and trainings(tp) == first and tp.run.info["faults"]["failed"] == 3
    assert [w for w in warned(tp) if "Its students are used" in w and "429" in w]


def test_what_a_cap_left_out_is_asked_by_the_next_compile(llama):
    teacher = Moody(99, RuntimeError())
    teacher.down = False
    for asked, rows in ((6, 5), (12, 11), (12, 11)):
        _, tp = compiled(llama, teacher, max_teacher_calls=6)
        assert sum(teacher.asked.values()) == asked and tp.run.funnel()["tried"]["all"] == min(asked, 12), rows
    assert max(teacher.asked.values()) == 1 and tp.run.info["faults"] == {"failed": 0, "left_out": 0} and trainings(tp) == 2


# -- one scale for all scores ----------------------------------------------------------------------------------------


class Passage(pydantic.BaseModel):
    title: str


class Finds(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("q -> a")

    def forward(self, q):
        return dspy.Prediction(a=self.step(q=q).a, found=[Passage(title=q)])


def test_scores_that_are_compared_are_made_without_a_trace_each_once(llama):
    judged = Counter()
    judge = dspy.Predict("q, said -> verdict")

    def metric(example, prediction, trace=None):
        assert prediction.found[0].title == example.q, "the program's own objects, not their JSON form"
        if trace is not None:
            return True
        if dspy.settings.lm:  # the teacher's: its settings are in force
            judged[example.q] += 1
            return 0.25 if judge(q=example.q, said=prediction.a).verdict else 0
        return 0.5

    _, tp = compiled(llama, lambda text: {"a": "a0", "verdict": "fine"}, 20, metric, Finds())
    assert tp.run.scores["teacher"] == 0.25 and tp.run.scores["tuned"] == 0.5 and all(t.score == 1 for t in tp.run.traces)
    assert len(judged) == 2 and set(judged.values()) == {1}


# -- who else is asked -----------------------------------------------------------------------------------------------


class Made(Finds):
    "Makes a predictor as it runs."

    def forward(self, q):
        dspy.ChainOfThought("q -> hint")(q=q)
        return self.step(q=q)


class Deep(Finds):
    "Keeps predictors where DSPy does not look."

    def __init__(self):
        super().__init__()
        self.steps = {"of": ({"judges": [dspy.Predict("q -> grade: int")]},)}

    def forward(self, q):
        self.steps["of"][0]["judges"][0](q=q)
        return self.step(q=q)


class Direct(Finds):
    def forward(self, q):
        dspy.settings.lm(f"[[ ## hint ## ]] {q}")
        return self.step(q=q)


class Swallows(Finds):
    "Goes on without the answer."

    def forward(self, q):
        out = self.step(q=q)
        try:
            dspy.Predict("q -> later")(q=q)
        except Exception:
            pass
        return out


@pytest.mark.parametrize(
    ("program", "name", "counted"),
    [(Made(), "q -> reasoning, hint", 12), (Deep(), "q -> grade", 12), (Direct(), "dspy.settings.lm, in Direct", 0), (Swallows(), "q -> later", 12), (Finds(), None, 0)],
    ids=lambda v: type(v).__name__,
)
def test_who_is_asked_beside_the_students_is_told_and_not_paid(llama, program, name, counted):
    paid = teacher_lm(lambda text: {"reasoning": "So.", "a": "a0", "hint": "h", "grade": "1", "later": "l"})
    tp = BootstrapFinetune(None, dict(lm=paid))
    calls = 12 if name is None else 24
    with dspy.context(lm=paid):
        student = tp.compile(program, trainset=examples(12), target=llama, **QUICK)
        assert paid.engine.calls == calls and asks_others(student, {"q": "<1>"}) == ([name] if name else [])
    assert paid.engine.calls == calls and tp.run.status == "finished"
    outside, trial = ([w for w in warned(tp) if text in w] for text in ("outside the program", "asks not only its students"))
    assert len(outside) == bool(counted) and len(trial) == bool(name)
    assert all(f"{name!r} {counted}" in w for w in outside) and all(repr(name) in w for w in trial), (outside, trial)
    assert tp.run.funnel().get("outside", {"all": 0})["all"] == counted
