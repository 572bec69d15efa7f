"""Bootstrapping: what is asked, what is written down, what is never asked again."""
import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import dspy
import numpy as np
import pydantic
import pytest
from dspy.dsp.utils.utils import dotdict
from dspy.lm15 import Message, Request

from bsft_nb.data.funnel import count_traces
from bsft_nb.lessons import teacher_lm
from bsft_nb.run.events import Stopped, StopSignal
from bsft_nb.run.files import append_line, iter_lines
from bsft_nb.teacher.bootstrap import TraceBootstrapper
from bsft_nb.teacher.ledger import Ledger, Trace, Traces, calls_path, load_traces
from bsft_nb.teacher.metric import read_score
from bsft_nb.teacher.programs import NoPrediction


def examples(n):
    return [dspy.Example(q=f"<{i}>", a=f"a{i}").with_inputs("q") for i in range(n)]


def number(text):
    "Which example a request is about."
    return int(text.rpartition("<")[2].split(">")[0])


def knows(text):
    return {"reasoning": "So.", "h": f"h<{number(text)}>", "a": f"a{number(text)}"}


def right(example, prediction, trace=None):
    return example.a == prediction.a


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "traces.jsonl"


class Asker:
    "A teacher LM and one call to bootstrap with it."

    def __init__(self, answer=knows, program=None, metric=right, **kwargs):
        self.lm, self.program = teacher_lm(answer), program or dspy.Predict("q -> a")
        self.lm.num_retries = 0
        self.boot = TraceBootstrapper(metric=metric, teacher_settings={"lm": self.lm}, **{"max_errors": 1000, **kwargs})

    def __call__(self, trainset, ledger, **kwargs):
        "The traces, and how often the LM was asked for them."
        before = self.lm.engine.calls
        traces = self.boot.collect([self.program], trainset, ledger, **kwargs)
        return list(traces), self.lm.engine.calls - before


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.hint, self.solve = dspy.Predict("q -> h"), dspy.ChainOfThought("q, h -> a")

    def forward(self, q):
        return self.solve(q=q, h=self.hint(q=q).h)


# -- acceptance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "threshold", "score", "kept"),
    [
        (True, None, 1, True), (False, None, 0, False), (None, None, 0, False), (0.01, None, 0.01, True), (-1, None, -1, False),
        (0.5, 0.5, 0.5, True), (0.4, 0.5, 0.4, False), (-1, -2, -1, True), (dspy.Prediction(score=0.7), 0.6, 0.7, True),
        (np.float32(2), None, 2, True), (np.bool_(False), None, 0, False),
        (float("nan"), None, None, False), (np.float64("nan"), -5, None, False),
    ],
)  # fmt: skip
def test_scores_and_thresholds(ledger, value, threshold, score, kept):
    (trace,), _ = Asker(metric=lambda *_: value, metric_threshold=threshold)(examples(1), ledger)
    assert (trace.score, trace.kept, trace.reason) == (score, kept, "" if kept else "rejected")
    assert (trace.error is None) == (score is not None)


@pytest.mark.parametrize("value", ["good", [1, 2], dspy.Prediction(a=1), np.array([1.0, 2.0])])
def test_what_is_no_score_is_that_attempts_error(ledger, value):
    (trace,), _ = Asker(metric=lambda *_: value)(examples(1), ledger)
    assert trace.reason == "metric error" and "it must return a bool, a number" in trace.error
    with pytest.raises(TypeError):
        read_score(value)


def test_a_metric_that_raises_costs_one_attempt_and_no_call_the_next_time(ledger):
    def moody(example, prediction, trace=None):
        return {"a1": True, "a2": True}[prediction.a]

    ask = Asker(metric=moody)
    traces, calls = ask(examples(3), ledger)
    assert [t.reason for t in traces] == ["metric error", "", ""] and calls == 3
    assert "Traceback" in traces[0].error and traces[0].error.rstrip().endswith("KeyError: 'a0'")
    ask.boot.metric = right
    traces, calls = ask(examples(3), ledger)
    assert [t.kept for t in traces] == [True] * 3 and calls == 0


def test_the_metric_runs_under_the_teachers_settings(ledger):
    judge = dspy.Predict("q, said -> a")

    def judged(example, prediction, trace):
        return judge(q=example.q, said=prediction.a).a == prediction.a and len(trace) == 1

    traces, calls = Asker(metric=judged)(examples(2), ledger)
    assert [t.kept for t in traces] == [True, True] and calls == 4
    assert all(len(t.calls) == 1 and not t.outside for t in traces), "the judge's calls are not the teacher's"


def test_later_rounds_are_fresh_rollouts_until_one_is_accepted(ledger):
    seen = []

    class Warm:
        def complete(self, request):
            seen.append((number(request.messages[-1].text), request.config.temperature, request.config.seed))
            return teacher_lm(lambda text: {"a": "a0" if request.config.temperature else "?"}).engine.complete(request)

    lm = dspy.LM("x/y", engine=Warm(), cache=False, seed=7, temperature=0.0)
    program = dspy.Predict("q -> a")
    for settings in ({"lm": lm}, {}):
        seen.clear()
        program.lm = None if settings else lm
        boot = TraceBootstrapper(metric=right, teacher_settings=settings, max_rounds=3)
        traces = boot.collect([program], examples(2), ledger.with_name(f"{len(settings)}.jsonl"), 1)
        assert [(t.example, t.attempt) for t in traces] == [(traces[0].example, 0), (traces[0].example, 1), *((traces[2].example, r) for r in range(3))]
        assert seen == [(0, 0.0, 7), (0, 1.0, 8), (1, 0.0, 7), (1, 1.0, 8), (1, 1.0, 9)]


def test_a_demo_that_is_the_example_is_not_shown(ledger):
    prompts, program = [], dspy.Predict("q -> a")
    program.demos = [dspy.Example(augmented=True, q=e.q, a=e.a) for e in examples(3)]
    ask = Asker(lambda text: knows(text), program)
    complete = ask.lm.engine.complete
    ask.lm.engine.complete = lambda request: (prompts.append([m.text for m in request.messages]), complete(request))[1]
    ask(examples(3), ledger)
    for messages in prompts:
        assert len(messages) == 5 and not any(f"<{number(messages[-1])}>" in m for m in messages[:-1])
    assert len(prompts) == 3 and len(program.demos) == 3


# -- errors ----------------------------------------------------------------------------------------------------------


def test_one_failing_call_costs_one_attempt_and_is_asked_again(ledger):
    broken = {1, 3}

    def moody(text):
        if number(text) in broken:
            raise RuntimeError("no network")
        return knows(text)

    ask = Asker(moody)
    traces, calls = ask(examples(5), ledger)
    assert [t.reason for t in traces] == ["", "error", "", "error", ""] and calls == 5
    assert "Traceback" in traces[1].error and "no network" in traces[1].error
    assert count_traces(traces) == {"tried": 5, "ran": 3, "parsed": 3, "kept": 3, "metric_errors": 0, "rejected": 0}
    broken.clear()
    traces, calls = ask(examples(5), ledger)
    assert all(t.kept for t in traces) and calls == 2, "what was scored is not asked again, what failed is"


def test_an_answer_that_does_not_parse_is_no_fault_and_final(ledger):
    ask = Asker(lambda text: {"b": "?"}, max_errors=1)
    (trace,), calls = ask(examples(1), ledger)
    assert trace.reason == "unparsed" and calls == 2, "DSPy asks a second time, in JSON"
    for metric in (right, lambda *_: True):
        ask.boot.metric = metric
        assert ask(examples(1), ledger)[1] == 0


def test_a_program_that_returns_no_prediction_ends_the_run(ledger):
    class Bare(Two):
        def forward(self, q):
            return self.hint(q=q).h

    with pytest.raises(NoPrediction, match=r"Bare.forward returned 'h<0>' \(str\)"):
        Asker(program=Bare())(examples(1), ledger)


def test_too_many_errors_end_the_run_and_keep_what_succeeded(ledger):
    def moody(text):
        if number(text) >= 4:
            raise RuntimeError("no network")
        return knows(text)

    ask = Asker(moody, max_errors=3)
    with pytest.raises(RuntimeError, match="3 teacher attempts failed.*no network.*max_errors"):
        ask(examples(100), ledger, num_threads=1)
    assert ask.lm.engine.calls == 7
    assert [t.kept for t in load_traces(ledger)] == [True] * 4 + [False] * 3


def test_stop_ends_between_attempts(ledger, tmp_path):
    stop = StopSignal(tmp_path / "control")
    ask = Asker(lambda text: (stop.request() if number(text) == 5 else None, knows(text))[1])
    with pytest.raises(Stopped):
        ask(examples(1000), ledger, stop=stop, num_threads=2)
    assert len(load_traces(ledger)) == ask.lm.engine.calls < 20


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_threads_or_duplicates(ledger):
    def slow(text):
        time.sleep(0.003 * (number(text) * 7 % 5))
        return knows(text)

    found = []
    for threads in (1, 8):
        traces, calls = Asker(slow, Two())([*examples(20), *examples(5)], ledger.with_name(f"{threads}.jsonl"), num_threads=threads)
        assert calls == 40
        found.append([(t.example, t.key, t.inputs, t.prediction, t.calls, t.score, t.tokens) for t in traces])
    assert found[0] == found[1] and [f[2]["q"] for f in found[0]] == [e.q for e in examples(20)]


def test_several_teachers_in_their_order_also_one_that_is_given_twice(ledger):
    ask = Asker(lambda text: {"a": "a0"}, metric=lambda *_: True)
    short, long = dspy.Predict("q -> a"), dspy.ChainOfThought("q -> a")
    long_lm = teacher_lm(lambda text: {"reasoning": "So.", "a": "a1"})
    long.set_lm(long_lm)
    traces = ask.boot.collect([short, long, short], examples(2), ledger)
    assert [(t.teacher, t.prediction["a"]) for t in traces] == [(0, "a0")] * 2 + [(1, "a1")] * 2 + [(2, "a0")] * 2
    assert ask.lm.engine.calls == 4 and long_lm.engine.calls == 2
    again = ask.boot.collect([long, short], examples(3), ledger)
    assert [(t.teacher, t.prediction["a"]) for t in again] == [(0, "a1")] * 3 + [(1, "a0")] * 3
    assert ask.lm.engine.calls == 5 and long_lm.engine.calls == 3, "each teacher's answers are its own, wherever it stands"


def test_a_changed_teacher_is_asked_again(ledger):
    def tool(q: str) -> str:
        return "found"

    def other(q: str) -> str:
        return "not found"

    class Steps(Two):
        def __init__(self, k=1, tool=tool):
            super().__init__()
            self.k, self.tools = k, [dspy.Tool(tool, name="tool", desc="A tool.")]

        def forward(self, q):
            return self.helper(q)

        def helper(self, q):
            return super().forward(q)

    class Changed(Steps):
        def helper(self, q):
            return super(Steps, self).forward(q + " ")

    def instructed():
        program = Steps()
        program.hint.signature = program.hint.signature.with_instructions("Think.")
        return program

    def shown():
        program = Steps()
        program.hint.demos = [dspy.Example(q="1", h="2")]
        return program

    ask, keys = Asker(program=Steps()), set()
    for program, calls in ((Steps(), 2), (Steps(2), 0), (Steps(tool=other), 0), (Changed(), 2), (instructed(), 1), (shown(), 1)):
        ask.program, told = program, []
        (trace,), asked = ask(examples(1), ledger, on_trace=lambda t, again: told.append(again))
        assert (asked, told) == (calls, [False]), "a new attempt, which pays for the calls that ask something new"
        assert ask(examples(1), ledger)[1] == 0
        keys.add(trace.key)
    for settings in ({"lm": ask.lm, "adapter": dspy.JSONAdapter()}, {"lm": ask.lm.copy(temperature=0.3)}):
        ask.boot.teacher_settings = settings
        (trace,), asked = ask(examples(1), ledger)
        assert asked > 0
        keys.add(trace.key)
    assert len(keys) == 8


def test_a_corrected_label_pays_nothing(ledger):
    ask = Asker(program=Two())
    wrong = [dspy.Example(q="<0>", a="a1").with_inputs("q")]
    assert [t.kept for t in ask(wrong, ledger)[0]] == [False]
    traces, calls = ask(examples(1), ledger)
    assert [t.kept for t in traces] == [True] and calls == 0


def test_max_calls_caps_new_attempts_and_loses_nothing(ledger):
    ask = Asker()
    ask(examples(3), ledger)
    traces = ask.boot.collect([ask.program], examples(10), ledger, max_calls=4)
    assert (len(traces), traces.left_out, ask.lm.engine.calls) == (7, 3, 7)
    assert ask.boot.collect([ask.program], examples(10), ledger, max_calls=0).left_out == 3
    done = ask.boot.collect([ask.program], examples(10), ledger, max_calls=3)
    assert (len(done), done.left_out, ask.lm.engine.calls) == (10, 0, 10)


def test_tokens_cost_and_latency_where_the_lm_tells(ledger):
    (trace,), _ = Asker(lambda text: (time.sleep(0.03), knows(text))[1], Two())(examples(1), ledger)
    assert trace.tokens == {"prompt": 2, "completion": 2} and trace.cost is None and 0.06 <= trace.latency < 0.6


def test_traces_stay_on_disk(ledger):
    def held():
        gc.collect()
        return sum(isinstance(o, Trace) for o in gc.get_objects())

    ask, before, told = Asker(), held(), []
    traces = ask.boot.collect([ask.program], examples(300), ledger, on_trace=lambda t, again: told.append((t.kept, again)))
    assert held() == before and told == [(True, False)] * 300
    assert isinstance(traces, Traces) and len(traces) == 300 and traces[-1].inputs == {"q": "<299>"}
    assert [t.inputs["q"] for t in traces[10:12]] == ["<10>", "<11>"] and held() == before
    traces.save(ledger.with_name("copy.jsonl"))
    assert list(load_traces(ledger.with_name("copy.jsonl"))) == list(traces)


def test_a_torn_line_and_a_second_writer_cost_one_line(ledger):
    ask = Asker()
    ask(examples(3), ledger, num_threads=1)  # so that the last lines of both files are of the same example
    for path in (ledger, calls_path(ledger)):
        text = path.read_bytes()
        path.write_bytes(text[:-20])  # killed within the last line
    traces, calls = ask(examples(3), ledger)
    assert len(traces) == 3 and calls == 1
    ours, theirs = Ledger(ledger), Ledger(ledger)
    with open(ledger, "ab") as f:
        f.write(b'{"torn')
    places = [w.add(Trace(f"e{i}", 0, key=f"{i:x}")) for i in range(4) for w in (ours, theirs)]
    append_line(ledger, {"example": "x", "attempt": 0})
    assert [t.example for t in Traces(ledger, places)] == [f"e{i}" for i in range(4) for _ in range(2)]
    assert list(iter_lines(ledger))[-1]["example"] == "x"


# -- nothing is paid twice -------------------------------------------------------------------------------------------


class Typed(pydantic.BaseModel):
    value: int


def test_another_metric_sees_the_real_thing_and_asks_nobody(ledger):
    class Sig(dspy.Signature):
        q: str = dspy.InputField()
        a: Typed = dspy.OutputField()

    class Loop(dspy.Module):
        def __init__(self):
            super().__init__()
            self.step = dspy.Predict(Sig)

        def forward(self, q):
            return [self.step(q=q), self.step(q=q)][-1]

    answers = iter(range(100))
    ask = Asker(lambda text: {"a": json.dumps({"value": next(answers)})}, Loop(), metric=lambda e, p, t: p.a.value == 1)
    assert [t.kept for t in ask(examples(3), ledger, num_threads=1)[0]] == [True, False, False]

    def real(example, prediction, trace):
        assert type(prediction.a) is Typed and trace[1][2].a == prediction.a
        assert [isinstance(step[0], dspy.Predict) for step in trace] == [True] * 2 and trace[0][1] == {"q": example.q}
        return trace[1][2].a.value - trace[0][2].a.value == 1 and prediction.a.value > 1

    ask.boot.metric, told = real, []
    traces, calls = ask(examples(3), ledger, on_trace=lambda t, again: told.append(again))
    assert [t.kept for t in traces] == [False, True, True] and calls == 0 and told == [True] * 3
    assert traces[1].tokens == {"prompt": 2, "completion": 2}, "what it cost stays known"
    ask.boot.metric, ask.boot.metric_threshold = lambda e, p, t: p.a.value, 5
    traces, calls = ask(examples(3), ledger)
    assert [(t.score, t.kept) for t in traces] == [(1, False), (3, False), (5, True)] and calls == 0
    assert list(load_traces(ledger)) == traces


@pytest.mark.parametrize("breaks", [False, True])
def test_a_program_that_cannot_run_again_is_scored_from_what_is_written_down(ledger, breaks):
    class Sig(dspy.Signature):
        q: str = dspy.InputField()
        a: list[Typed] = dspy.OutputField()

    runs = deque()  # a list would be content of the program, and change its key

    class Random(dspy.Module):
        def __init__(self):
            super().__init__()
            self.step = dspy.Predict(Sig)

        def forward(self, q):
            runs.append(q)
            if breaks and len(runs) > 1:
                raise OSError("the tool is gone")
            out = self.step(q=f"{q} {len(runs)}")
            return dspy.Prediction(a=out.a, n=len(runs))

    ask = Asker(lambda text: {"a": '[{"value": 7}]'}, Random(), metric=lambda *_: False)
    ask(examples(1), ledger)
    ask.boot.metric = lambda e, p, t: p.a == [Typed(value=7)] and p.n == 1 and t[0][2].a == p.a and t[0][1] == {"q": "<0> 1"}
    (trace,), calls = ask(examples(1), ledger)
    assert trace.kept and calls == 0 and len(runs) == 2
    assert trace.calls[0].inputs == {"q": "<0> 1"} and trace.prediction["n"] == 1


def half_done(ask, ledger, asks_first, asks_then, n=1):
    "Run into a failure within the attempt, then to its end."
    (*_, trace), calls = ask(examples(n), ledger)
    assert trace.reason == "error" and calls == asks_first, trace.error
    (*_, trace), calls = ask(examples(n), ledger)
    assert trace.kept and calls == asks_then, trace.error
    return trace


class FailsOnce:
    "Fails at the call number `at`, once."

    def __init__(self, at, answer=knows):
        self.at, self.answer, self.calls, self.lock = at, answer, 0, threading.Lock()

    def __call__(self, text):
        with self.lock:
            self.calls += 1
            if self.calls == self.at:
                raise RuntimeError("no network")
        return self.answer(text)


def test_the_completed_calls_of_a_failed_attempt_are_not_paid_again(ledger):
    trace = half_done(Asker(FailsOnce(2), Two()), ledger, 2, 1)
    assert [c.predictor for c in trace.calls] == ["hint", "solve.predict"]
    assert trace.tokens == {"prompt": 2, "completion": 2}


def test_react_with_tools_goes_on_where_it_was(ledger):
    steps = [("look", '{"q": "x"}'), ("look", '{"q": "y"}'), ("finish", "{}")]

    def agent(text):
        i = text.count("observation_")
        name, args = steps[min(i, 2)]
        return {"next_thought": "t", "next_tool_name": name, "next_tool_args": args, "reasoning": "So.", "a": "a0"}

    async def look(q: str) -> str:
        await asyncio.sleep(0.001)
        return (await dspy.Predict("q -> a").acall(q=q)).a

    program = dspy.ReAct("q -> a", tools=[look])
    ask = Asker(FailsOnce(6, agent), program)
    ask.lm._async_engine_spec = AsyncOf(ask.lm.engine)
    ask.boot.teacher_settings["allow_tool_async_sync_conversion"] = True
    trace = half_done(ask, ledger, 6, 1)
    assert [c.predictor for c in trace.calls] == ["react"] * 3 + ["extract.predict"]
    assert [(c.predictor, c.inputs) for c in trace.outside] == [("q -> a", {"q": "x"}), ("q -> a", {"q": "y"})]


class AsyncOf:
    def __init__(self, engine):
        self.engine = engine

    async def complete(self, request):
        return self.engine.complete(request)


class Wide(dspy.Module):
    "Parallel threads, coroutines, an LM of its own that is asked directly and by a typed request, a cached part."

    def __init__(self, judge):
        super().__init__()
        self.parts, self.last, self.judge = [dspy.Predict("q -> h"), dspy.Predict("q -> a")], dspy.Predict("q, h -> a"), judge

    def forward(self, q):
        results = dspy.Parallel(num_threads=3, disable_progress_bar=True)([(p, {"q": f"{x}{q}"}) for p in self.parts for x in "uv"])
        if None in results:
            raise RuntimeError("a part is missing")

        async def both():
            return await asyncio.gather(*(self.last.acall(q=q, h=h) for h in "xy"), return_exceptions=True)

        outs = asyncio.run(both())
        if failed := [o for o in outs if isinstance(o, Exception)]:
            raise failed[0]
        direct = self.judge(f"judge {q}")[0]
        typed = self.judge(Request(model=self.judge.model, messages=(Message.user(f"typed {q}"),)))
        return dspy.Prediction(a=outs[0].a, direct=direct, typed=typed.message.text)


@pytest.mark.parametrize("at", range(1, 9))
def test_threads_coroutines_and_direct_calls_are_all_recorded(ledger, at):
    answer = FailsOnce(at)
    judge = teacher_lm(answer)
    judge.num_retries = 0
    ask = Asker(answer, Wide(judge))
    ask.lm._async_engine_spec = AsyncOf(ask.lm.engine)
    (trace,), _ = ask(examples(1), ledger)
    assert trace.reason == "error"
    before = answer.calls
    (trace,), _ = ask(examples(1), ledger)
    assert trace.kept and sorted(c.predictor for c in trace.calls) == ["last"] * 2 + ["parts[0]"] * 2 + ["parts[1]"] * 2
    recorded = [row for row in iter_lines(calls_path(ledger))]
    assert len(recorded) == 8 == answer.calls - 1, "each call completed once, and one failed"
    assert answer.calls - before <= 9 - at
    ask.boot.metric = lambda e, p, t: len(t) == 6 and "a0" in p.direct and "a0" in p.typed
    (trace,), calls = ask(examples(1), ledger)
    assert trace.kept and calls == 0 and answer.calls == 9


def test_tool_calls_come_back_as_they_were(ledger):
    from dspy.lm15 import Response, ToolCallPart, Usage

    class Native:
        calls = 0

        def complete(self, request):
            self.calls += 1
            part = ToolCallPart(id="1", name="look", input={"q": "x"})
            return Response(id=None, model=request.model, message=Message.assistant([part]), finish_reason="tool_call", usage=Usage(input_tokens=1, output_tokens=1))

    class Direct(dspy.Module):
        def __init__(self):
            super().__init__()
            self.step = dspy.Predict("q -> a")

        def forward(self, q):
            call = dspy.settings.lm(q)[0]["tool_calls"][0]
            return dspy.Prediction(name=call.function.name, arguments=call["function"]["arguments"])

    engine = Native()
    boot = TraceBootstrapper(metric=lambda e, p, t: p.name == "look", teacher_settings={"lm": dspy.LM("n/n", engine=engine, cache=False)})
    (first,) = boot.collect([Direct()], examples(1), ledger)
    boot.metric = lambda e, p, t: json.loads(p.arguments) == {"q": "x"}
    (second,) = boot.collect([Direct()], examples(1), ledger)
    assert first.kept and second.kept and engine.calls == 1 and first.prediction == second.prediction


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_lm_of_the_old_kind_is_recorded_too(ledger):
    class Old(dspy.BaseLM):
        calls = 0

        def forward(self, prompt=None, messages=None, **kwargs):
            Old.calls += 1
            message = {"role": "assistant", "content": "[[ ## a ## ]]\na0\n\n[[ ## completed ## ]]"}
            usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
            return dotdict(model=self.model, choices=[dotdict(message=dotdict(message), finish_reason="stop")], usage=usage)

    boot = TraceBootstrapper(metric=right, teacher_settings={"lm": Old("old")})
    (first,) = boot.collect([dspy.Predict("q -> a")], examples(1), ledger)
    boot.metric = lambda e, p, t: p.a == "a0"
    (second,) = boot.collect([dspy.Predict("q -> a")], examples(1), ledger)
    assert first.kept and second.kept and Old.calls == 1 and second.tokens == {"prompt": 5, "completion": 2}


# -- attribution -----------------------------------------------------------------------------------------------------


def test_shared_frozen_copied_and_foreign_predictors(ledger):
    class Judge(dspy.Signature):
        "Judge it."

        q: str = dspy.InputField()
        h: str = dspy.OutputField()

    class Part(dspy.Module):
        def __init__(self, step):
            super().__init__()
            self.step = step

        def forward(self, q):
            return self.step(q=q)

    class Whole(dspy.Module):
        def __init__(self):
            super().__init__()
            step = dspy.Predict("q -> a")
            self.one, self.two = Part(step), Part(step)
            self.best = dspy.BestOfN(dspy.Predict("q -> h"), 2, lambda args, pred: 1.0, 0.5)
            self.frozen = Part(dspy.Predict("q -> a"))
            self.frozen._compiled = True

        def forward(self, q):
            self.best(q=q), dspy.Predict(Judge)(q=q), self.frozen(q=q), self.one(q=q)
            self.one.step(q=q, signature=dspy.Signature("q -> h"))
            return self.two(q=q)

    (trace,), _ = Asker(program=Whole())(examples(1), ledger)
    assert [c.predictor for c in trace.calls] == ["best.module", "one.step", "one.step"]
    assert [c.predictor for c in trace.outside] == ["Judge", "q -> a", "q -> a"]


# -- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    log = tmp_path / "server.log"
    log.touch()
    command = [sys.executable, str(Path(__file__).parents[1] / "bench" / "teacher_server.py"), str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield int(process.stdout.readline()), log
    process.kill()


def test_the_price_of_a_call_is_known_and_summed(server, ledger):
    lm = dspy.LM("openai/gpt-4o-mini", api_base=f"http://127.0.0.1:{server[0]}/v1", api_key="x", cache=False)
    boot = TraceBootstrapper(metric=None, teacher_settings={"lm": lm})
    (trace,) = boot.collect([Two()], examples(1), ledger)
    assert trace.tokens == {"prompt": 200, "completion": 20} and 0.4 <= trace.latency < 4
    assert trace.cost == pytest.approx(2 * (100 * 0.15 + 10 * 0.6) / 1e6)


def test_killed_at_random_moments_repeats_no_completed_call(server, tmp_path):
    import bootstrap

    result = bootstrap.kills(server[0], 150, tmp_path, server[1], times=2)
    assert result["repeated_calls"] == 0
