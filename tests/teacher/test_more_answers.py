"Several accepted answers, hints, agreement and a cap in dollars: what is asked, what is learned, and what is never paid twice."
import asyncio
import json
import threading

import dspy
import pytest
from dspy.lm15 import Message, Response, Usage

from bsft_nb.data.funnel import count_traces
from bsft_nb.run.files import iter_lines
from bsft_nb.run.folder import fingerprint
from bsft_nb.teacher.bootstrap import TraceBootstrapper
from bsft_nb.teacher.ledger import Ledger, calls_path, load_traces

OPTIONS = {"accepted": 1, "hints": None, "price": None, "order": "given"}


class Sees:
    "An engine that answers by the whole request, and counts; each answer has 10 tokens."

    def __init__(self, answer, tokens=10):
        self.answer, self.tokens, self.calls, self.lock, self.most, self.now = answer, tokens, 0, threading.Lock(), 0, 0

    def complete(self, request):
        with self.lock:
            self.calls += 1
            turn = self.calls
        text = " ".join(m.text for m in request.messages) + str(request.system or "")
        fields = self.answer(text, turn)
        said = "".join(f"[[ ## {k} ## ]]\n{v}\n\n" for k, v in fields.items()) + "[[ ## completed ## ]]"
        return Response(id=None, model=request.model, message=Message.assistant(said), finish_reason="stop", usage=Usage(input_tokens=0, output_tokens=self.tokens))


def teacher(answer, **kwargs):
    return dspy.LM("scripted/teacher", engine=Sees(answer), cache=False, num_retries=0, **kwargs)


def boot(lm, metric=None, max_rounds=1, **options):
    made = TraceBootstrapper(metric=metric, teacher_settings={"lm": lm}, max_rounds=max_rounds, max_errors=100)
    for name, value in {**OPTIONS, **options}.items():
        setattr(made, name, value)
    return made


def examples(n):
    return [dspy.Example(q=f"<{i}>", a=f"label {i}").with_inputs("q") for i in range(n)]


def right(example, prediction, trace=None):
    return prediction.a.startswith("label")


PROGRAM = dspy.ChainOfThought("q -> a")


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "traces.jsonl"


def test_sampling_goes_on_until_there_are_so_many_distinct_answers(ledger):
    ways = ["One way", "one  WAY", "another", "one way", "a third"]
    lm = teacher(lambda text, turn: {"reasoning": ways[(turn - 1) % 5], "a": "label"})
    made = list(boot(lm, right, 9, accepted=3).collect([PROGRAM], examples(1), ledger, 1))
    assert [t.kept for t in made] == [True] * 5 and lm.engine.calls == 5, "white space and case make no new answer"
    assert len(list(boot(lm, right, 9).collect([PROGRAM], examples(1), ledger, 1))) == 1, "one is wanted: the first is there"
    more = boot(lm, right, 9, accepted=3)
    assert more.known([PROGRAM], examples(1), ledger) == (5, []) and len(more.collect([PROGRAM], examples(1), ledger)) == 5
    assert lm.engine.calls == 5, "what is in the ledger is paid"


def test_a_ledger_of_one_answer_an_example_is_gone_on_with(ledger):
    lm = teacher(lambda text, turn: {"reasoning": f"way {turn}", "a": "label"})
    boot(lm, right, 4).collect([PROGRAM], examples(3), ledger)
    rows = [{k: v for k, v in row.items() if k not in ("hint", "feedback")} for row in iter_lines(ledger)]
    assert all(set(row) == set(rows[0]) for row in rows) and "hint" not in json.dumps(rows), "a row without hints is what it was"
    made = boot(lm, right, 4, accepted=2).collect([PROGRAM], examples(3), ledger)
    assert len(made) == 6 and lm.engine.calls == 6


def test_few_answers_to_give_are_told(ledger):
    lm = teacher(lambda text, turn: {"reasoning": "same", "a": "label"})
    made = boot(lm, right, 3, accepted=2).collect([PROGRAM], examples(6), ledger)
    assert any("12 of 12 attempts after an accepted answer" in w for w in made.warnings)


class Planned(dspy.Module):
    def __init__(self):
        super().__init__()
        self.plan, self.solve = dspy.Predict("q -> way"), dspy.ChainOfThought("q, way -> a")

    def forward(self, q):
        return self.solve(q=q, way=self.plan(q=q).way)


def equal(example, prediction, trace=None):
    return dspy.Prediction(score=example.a == prediction.a, feedback=f"it should be {example.a[::-1]} reversed, as the book on page nine says" if example.a != prediction.a else "")


@pytest.mark.parametrize("kind", ["label", "metric"])
def test_a_hint_reaches_the_teacher_and_no_pair(ledger, kind):
    mark = {"label": "the right answer is given below", "metric": "as the book on page nine says"}[kind]
    seen = []

    def answer(text, turn):
        seen.append(text)
        number = text.rpartition("<")[2].split(">")[0]
        return {"way": "think", "reasoning": "so", "a": f"label {number}" if mark in text and number != "0" else "?"}

    lm = teacher(answer)
    made = list(boot(lm, equal, 2, hints=kind).collect([Planned()], examples(3), ledger, 2))
    assert [(t.kept, bool(t.hint)) for t in made] == [(False, False), (False, False), (False, True)] + [(False, False), (False, False), (True, True)] * 2
    assert sum(mark in t for t in seen) == 6 and lm.engine.calls == 18, "both predictors of three attempts are told"
    learned = json.dumps([c.row() for t in made if t.kept for c in t.calls])
    assert "label 1" in learned and not any(words in learned for words in (mark, "Hint", "reversed"))
    counts = count_traces(made)
    assert counts["kept"] == counts["accepted with a hint"] == 2 and counts["tried"] == 9
    again = list(boot(lm, equal, 2, hints=kind).collect([Planned()], examples(3), ledger, 2))
    assert lm.engine.calls == 18 and [t.row() for t in again] == [t.row() for t in made]
    rows = [Ledger(ledger).find(t.key)[1].hint for t in made]
    assert [bool(h) for h in rows] == [bool(t.hint) for t in made], "the ledger tells them apart"
    assert load_traces(ledger)[2].hint == made[2].hint or any(t.hint for t in load_traces(ledger))
    other = lambda example, prediction, trace=None: example.a == prediction.a  # noqa: E731
    scored = list(boot(lm, other, 2, hints="label" if kind == "label" else None).collect([Planned()], examples(3), ledger, 2))
    assert lm.engine.calls == 18, "another metric scores hinted attempts again and asks nobody"
    assert [t.kept for t in scored if t.hint] == ([False, True, True] if kind == "label" else [])


@pytest.mark.parametrize("leak", [{"way": "the answer is Label 0!", "reasoning": "so"}, {"way": "think", "reasoning": "The hint gives it."}])
def test_an_answer_that_gives_the_hint_away_is_dropped(ledger, leak):
    lm = teacher(lambda text, turn: {**leak, "a": "label 0" if "Hint" in text else "?"})
    made = list(boot(lm, equal, 1, hints="label").collect([Planned()], examples(1), ledger))
    assert [t.reason for t in made] == ["rejected", "quoted the hint"] and not made[1].kept
    assert count_traces(made)["quoted the hint"] == 1
    again = list(boot(lm, equal, 1, hints="label").collect([Planned()], examples(1), ledger))
    assert lm.engine.calls == 4 and again[1].reason == "quoted the hint", "it stays dropped"


def test_samples_that_agree_are_judged_together_and_only_when_all_are_there(ledger):
    said = ["4", "5", " 4", "4"]

    def answer(text, turn):
        if turn == 3 and stumble:
            raise OSError("no network")
        return {"reasoning": f"way {turn}", "a": said[(turn - 1) % 4]}

    stumble = True
    lm = teacher(answer)
    capped = list(boot(lm, "agreement", 4).collect([PROGRAM], examples(1), ledger, 1, max_calls=2))
    assert [t.reason for t in capped] == ["unjudged"] * 2 and not any(t.kept for t in capped)
    made = list(boot(lm, "agreement", 4).collect([PROGRAM], examples(1), ledger, 1))
    assert [t.reason for t in made] == ["rejected", "rejected", "error", "rejected"], "two of four are not more than half"
    stumble = False
    lm.engine.calls = 2  # the third is made again
    made = list(boot(lm, "agreement", 4).collect([PROGRAM], examples(1), ledger, 1))
    assert [(t.score, t.reason) for t in made] == [(0.75, ""), (0.25, "rejected"), (0.75, "spare"), (0.75, "spare")] and lm.engine.calls == 3
    both = list(boot(lm, "agreement", 4, accepted=2).collect([PROGRAM], examples(1), ledger, 1))
    assert [t.kept for t in both] == [True, False, True, False] and lm.engine.calls == 3
    assert boot(lm, "agreement", 4).known([PROGRAM], examples(1), ledger)[0] == 4


@pytest.mark.parametrize("threads", [1, 8])
def test_a_cap_in_dollars_holds_and_the_next_compile_goes_on(ledger, threads):
    "Ten tokens an answer at a dollar each; a call may cost 20."
    lm = teacher(lambda text, turn: {"way": "w", "reasoning": "r", "a": "label"}, max_tokens=20)
    spend = boot(lm, right, price=(0, 1e6))
    made = spend.collect([Planned()], examples(8), ledger, threads, max_cost=75)
    paid = lm.engine.calls * 10
    assert 55 < paid <= 75, "not one more fits"
    assert all(t.cost == 20 for t in made) and len(made) + made.left_out == 8 and made.left_out
    rest = spend.collect([Planned()], examples(8), ledger, threads, max_cost=1000)
    assert len(rest) == 8 and not rest.left_out and lm.engine.calls == 16, "a call that was paid in an attempt that was left out is not paid again"
    free = spend.collect([Planned()], examples(8), ledger, threads, max_cost=0.01)
    assert len(free) == 8 and lm.engine.calls == 16, "the ledger costs nothing"


def test_a_cap_holds_for_programs_that_are_awaited(ledger):
    class Many(dspy.Module):
        def __init__(self):
            super().__init__()
            self.p = dspy.Predict("q, i -> a")

        async def aforward(self, q):
            return (await asyncio.gather(*(self.p.acall(q=q, i=str(i)) for i in range(4))))[0]

    lm = teacher(lambda text, turn: {"a": "label"}, max_tokens=20)
    made = boot(lm, right, price=(0, 1e6)).collect([Many()], examples(2), ledger, 2, max_cost=65)
    assert lm.engine.calls == 5 and made.left_out >= 1, "50 are spent, and 20 may be needed for one more"


def test_failed_calls_and_silent_lms(ledger):
    def fails(text, turn):
        if turn <= 3:
            raise OSError("no network")
        return {"reasoning": "r", "a": "label"}

    lm = teacher(fails, max_tokens=20)
    made = list(boot(lm, right, price=(0, 1e6)).collect([PROGRAM], examples(5), ledger, 1, max_cost=35))
    assert [t.reason for t in made] == ["error"] * 3 + [""] * 2, "what failed costs nothing"
    lm = teacher(lambda text, turn: {"reasoning": "r", "a": "label"}, max_tokens=20)
    lm.engine.tokens = 0
    boot(lm, right, price=(0, 1e6)).collect([PROGRAM], examples(5), ledger.with_name("silent.jsonl"), 1, max_cost=50)
    assert lm.engine.calls == 2, "what tells nothing counts as what was set aside"


def test_a_kill_between_two_calls_loses_none_of_them(ledger):
    "The first call of an attempt is paid; the process ends before the second."
    class Killed(BaseException):
        pass

    def dies(text, turn):
        if turn == 2:
            raise Killed
        return {"way": "w", "reasoning": "r", "a": "label"}

    lm = teacher(dies, max_tokens=20)
    with pytest.raises(Killed):
        boot(lm, right, price=(0, 1e6)).collect([Planned()], examples(1), ledger, 1, max_cost=100)
    made = boot(lm, right, price=(0, 1e6)).collect([Planned()], examples(1), ledger, 1, max_cost=20)
    assert len(made) == 1 and lm.engine.calls == 3 and sum(1 for _ in iter_lines(calls_path(ledger))) == 2


def test_the_order_spreads_only_under_a_cap_and_is_the_same_each_time(ledger):
    trainset = [dspy.Example(q=f"{kind} {i}").with_inputs("q") for kind in ("parcel is late", "card was charged twice", "password forgotten again") for i in range(6)]
    lm = teacher(lambda text, turn: {"reasoning": "r", "a": "label"})
    spread = boot(lm, right, order="spread")
    asked = [t.inputs["q"] for t in spread.collect([PROGRAM], trainset, ledger, 1, max_calls=3)]
    assert len({q[:-2] for q in asked}) == 3
    assert [t.inputs["q"] for t in spread.collect([PROGRAM], trainset, ledger, 1, max_calls=3)][:3] == asked and lm.engine.calls == 6
    assert [t.inputs["q"] for t in spread.collect([PROGRAM], trainset, ledger, 1)] == [e.q for e in trainset] and lm.engine.calls == 18
    assert fingerprint(asked)
