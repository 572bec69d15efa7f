"""What is written down is what happened: calls as they were made, examples as the user gave them."""
import asyncio
import contextvars
import json
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor

import dspy
import pydantic
import pytest
from dspy.lm15 import Message, Response, Usage

from bsft_nb.data.builder import build
from bsft_nb.data.pairs import DataError, PairBuilder, check_parity, prompt_values
from bsft_nb.lessons import Scripted, teacher_lm
from bsft_nb.models.student_adapter import StudentAdapter
from bsft_nb.models.tokens import load_codec
from bsft_nb.results.evaluate import evaluate
from bsft_nb.run.files import iter_lines
from bsft_nb.teacher.bootstrap import TraceBootstrapper
from bsft_nb.teacher.calls import Calls, name_of
from bsft_nb.teacher.keys import example_key, plain
from bsft_nb.teacher.ledger import Call, Ledger, calls_path


class Notes(pydantic.BaseModel):
    lines: list[str] = []


class Loop(dspy.Module):
    "Asks three times, with notes that it keeps in one object."

    def __init__(self, kind=list):
        super().__init__()
        self.kind, self.step = kind, dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "notes": (kind, dspy.InputField()), "a": (str, dspy.OutputField())}))

    def begin(self):
        return self.kind(messages=[]) if self.kind is dspy.History else self.kind()

    def grow(self, notes, text):
        if isinstance(notes, list):
            notes.append([text])
            notes[0].append(text)
        elif isinstance(notes, dict):
            notes.setdefault("lines", []).append(text)
        else:
            (notes.lines if isinstance(notes, Notes) else notes.messages).append(text if isinstance(notes, Notes) else {"q": text, "notes": "", "a": text})

    def ask(self, q, notes):
        return self.step(q=q, notes=notes)

    def forward(self, q):
        notes = self.begin()
        for i in range(3):
            out = self.ask(f"{q} {i}", notes)
            self.grow(notes, out.a)
            out.a = out.a.upper()
        return dspy.Prediction(a=out.a)


class Copies(Loop):
    "Asks a copy of its predictor each time."

    def ask(self, q, notes):
        return self.step.deepcopy()(q=q, notes=notes)


class Threads(Loop):
    def ask(self, q, notes):
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.step, {"q": q, "notes": notes})])[0]


class Together(Loop):
    "Coroutines that share the notes; each writes when it has its answer."

    def forward(self, q):
        notes = self.begin()

        async def one(i):
            await asyncio.sleep(0.01 * i)
            out = await self.step.acall(q=f"{q} {i}", notes=notes)
            self.grow(notes, out.a)
            return out

        async def all_of_them():
            return await asyncio.gather(*(one(i) for i in range(3)))

        return dspy.Prediction(a=asyncio.run(all_of_them())[-1].a)


class Best(Loop):
    "The program within `BestOfN`, which throws tries away."

    def __init__(self, kind=list):
        super().__init__(kind)
        self.step = dspy.BestOfN(self.step, 2, lambda args, pred: float("1" in args["q"]), 0.5)


class Shouts(dspy.Predict):
    "A subclass that changes what it was asked before it asks."

    def forward(self, **kwargs):
        return super().forward(**{**kwargs, "q": kwargs["q"] + "!"})


class Subclass(Loop):
    def __init__(self, kind=list):
        super().__init__(kind)
        self.step = Shouts(self.step.signature)


class Hearing:
    "An engine that keeps what it is asked; its coroutines take their time."

    def __init__(self, answer=lambda n: f"a{n}"):
        self.answer, self.heard, self.lock = answer, [], threading.Lock()

    def complete(self, request):
        with self.lock:
            self.heard.append(request.messages[-1].text)
            n = len(self.heard)
        text = f"[[ ## a ## ]]\n{self.answer(n)}\n\n[[ ## completed ## ]]"
        return Response(id=None, model=request.model, message=Message.assistant(text), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))


class Slow:
    def __init__(self, engine):
        self.engine = engine

    async def complete(self, request):
        await asyncio.sleep(0.02)
        return self.engine.complete(request)


def hearing(**kwargs):
    engine = Hearing(**kwargs)
    return dspy.LM("hear/ing", engine=engine, async_engine=Slow(engine), cache=False, num_retries=0)


def examples(n):
    return [dspy.Example(q=f"q{i}", a=f"a{i}").with_inputs("q") for i in range(n)]


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "traces.jsonl"


def bootstrapper(lm, metric=lambda *_: True, **kwargs):
    return TraceBootstrapper(metric=metric, teacher_settings={"lm": lm, "adapter": dspy.ChatAdapter(use_json_adapter_fallback=False)}, max_errors=100, **kwargs)


def as_asked(program, call):
    "What a prompt says of the call's inputs, made from the record alone."
    signature = dict(program.named_predictors())[call.predictor].signature
    return dspy.ChatAdapter().format(signature, [], prompt_values(signature, json.loads(json.dumps(call.inputs))))[-1]["content"]


PROGRAMS = [Loop(), Loop(dict), Loop(Notes), Loop(dspy.History), Copies(), Threads(), Threads(dict), Together(), Together(Notes), Best(), Subclass()]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: f"{type(p).__name__}-{p.kind.__name__}")
def test_each_call_is_written_down_as_the_lm_was_asked(ledger, program):
    lm = hearing()
    (trace,) = bootstrapper(lm).collect([program], examples(1), ledger, num_threads=1)
    assert trace.kept, trace.error
    written, heard = [as_asked(program, c) for c in trace.calls], lm.engine.heard
    assert len(written) >= 3 and not Counter(written) - Counter(heard)
    assert [c.outputs["a"] for c in trace.calls if c.outputs["a"].isupper()] == [], "nor is what the program made of the answers"
    assert all(c.asked for c in trace.calls)
    assert len(written) == len(heard) - 2 * isinstance(program, Best)
    answer = evaluate(program, examples(1), lm=lm)[0]
    assert [as_asked(program, c) for c in answer.calls][-1] in lm.engine.heard and len(answer.calls) == len(trace.calls)


def test_a_subclass_that_asks_by_itself_is_written_down_as_it_was_called(ledger):
    class Alone(dspy.Predict):
        def forward(self, q, notes):
            out = dspy.Prediction(a=dspy.settings.lm(f"{q} {notes}")[0])
            dspy.settings.trace.append((self, {"q": q, "notes": notes}, out))
            return out

    program = Loop()
    program.step = Alone(program.step.signature)
    lm = hearing()
    (trace,) = bootstrapper(lm).collect([program], examples(1), ledger)
    assert [f"{c.inputs['q']} {c.inputs['notes']}" for c in trace.calls] == lm.engine.heard and len(trace.calls) == 3


@pytest.mark.parametrize("kind", [list, dict, Notes, dspy.History])
def test_parity_sees_a_recorder_that_keeps_references(ledger, llama, monkeypatch, kind):
    program, codec = Loop(kind), load_codec(llama)
    builder = PairBuilder(program, StudentAdapter(), codec)

    def samples(path):
        return build(builder, bootstrapper(hearing()).collect([program], examples(2), path)).samples

    assert check_parity(builder, samples(ledger), builder.prompt_ids) == 3

    def by_reference(self, steps, signatures):
        seen = [(p, i, o, self._made[id(o)][1]) for p, i, o in steps]
        return [Call(name_of(p, a.signature, o, signatures), plain(i), plain(o), [], a.witness) for p, i, o, a in seen], []

    monkeypatch.setattr(Calls, "of", by_reference)
    with pytest.raises(DataError, match="'step'.*not those that the teacher's LM was asked about"):
        check_parity(builder, samples(ledger.with_name("other.jsonl")), builder.prompt_ids)


# -- ledgers of an earlier version -----------------------------------------------------------------------------------


def make_old(path):
    "Write the attempts as the earlier version did: each call with the end state of its inputs."
    rows = list(iter_lines(path))
    for row in rows:
        row.pop("version", None)
        for call in row["calls"]:
            call.pop("asked", None)
            call["inputs"]["notes"] = row["calls"][-1]["inputs"]["notes"]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_an_older_ledger_is_made_again_from_what_was_answered(ledger):
    lm, program, judged = hearing(), Loop(), deque()  # a list would be content of the metric
    boot = bootstrapper(lm, lambda e, p, t: not judged.append(e.q) and e.q != "q1")
    new = list(boot.collect([program], examples(4), ledger))
    make_old(ledger)
    assert boot.known([program], examples(4), ledger) == (4, [])
    before = len(lm.engine.heard), len(judged)
    traces = boot.collect([program], examples(4), ledger, max_calls=0)
    assert (len(lm.engine.heard), len(judged)) == before and traces.left_out == 0
    assert list(traces) == new and [t.kept for t in traces] == [True, False, True, True]
    assert traces.warnings == ["4 attempts in the ledger are of an earlier version of bsft_nb, which wrote calls down when the program had ended: 4 were made again from the recorded answers, 0 had to be asked again"]
    assert not boot.collect([program], examples(4), ledger).warnings, "once"
    make_old(ledger)
    boot.metric = lambda e, p, t: e.q == "q1"
    traces = boot.collect([program], examples(4), ledger)
    assert len(lm.engine.heard) == before[0] and [(t.kept, t.calls) for t in traces] == [(not t.kept, t.calls) for t in new]


def test_an_older_ledger_without_answers_is_asked_again_and_that_is_told(ledger):
    lm, program = hearing(answer=lambda n: "a"), Loop()
    boot = bootstrapper(lm)
    new = list(boot.collect([program], examples(3), ledger))
    make_old(ledger)
    rows = list(iter_lines(calls_path(ledger)))
    calls_path(ledger).write_text("".join(json.dumps(r) + "\n" for r in rows if r["attempt"] != new[0].key))
    assert boot.known([program], examples(3), ledger)[0] == 2
    capped = boot.collect([program], examples(3), ledger, max_calls=0)
    assert len(capped) == 2 and capped.left_out == 1 and len(lm.engine.heard) == 9
    traces = boot.collect([program], examples(3), ledger)
    assert len(lm.engine.heard) == 12 and [t.calls for t in traces] == [t.calls for t in new]
    assert "1 attempt in" in traces.warnings[0] and "1 had to be asked again" in traces.warnings[0]


# -- what user code may do to an example -----------------------------------------------------------------------------


class Pops(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("q, notes: list[str] -> a")

    def forward(self, q, notes):
        out = self.step(q=q, notes=notes)
        notes.pop()
        return out


def _strips(example, prediction, trace=None):
    example.a = example.a.strip().lower()
    return True


def _annotates(example, prediction, trace=None):
    example.seen = True
    example.meta["tags"].append("seen")
    return True


def _deletes(example, prediction, trace=None):
    del example["a"]
    example.notes.clear()
    return True


def _adopts(example, prediction, trace=None):
    example.q = prediction.a
    example._input_keys.clear()
    return True


@pytest.mark.parametrize("metric", [_strips, _annotates, _deletes, _adopts])
def test_nobody_changes_the_users_examples(ledger, metric):
    def given():
        return [dspy.Example(q=f"q{i}", a=f" A{i} ", notes=["x", "y"], meta={"tags": []}).with_inputs("q", "notes") for i in range(3)]

    trainset, lm = given(), hearing()
    keys = [example_key(e) for e in trainset]
    boot = bootstrapper(lm, metric)
    traces = list(boot.collect([Pops()], trainset, ledger))
    assert all(t.kept and t.inputs["notes"] == t.calls[0].inputs["notes"] == ["x", "y"] for t in traces), [t.error for t in traces]
    assert [t.example for t in traces] == keys == [example_key(e) for e in trainset]
    assert [(e, e.inputs().keys()) for e in trainset] == [(e, e.inputs().keys()) for e in given()]
    assert all(a.error is None for a in evaluate(Pops(), trainset, metric, lm=lm)) and trainset == given()
    boot.metric = lambda e, p, t: e == given()[0] and p.a != ""
    assert [t.kept for t in boot.collect([Pops()], trainset, ledger)] == [True, False, False], "the next metric sees them fresh"


# -- several completions ---------------------------------------------------------------------------------------------


class Many(Scripted):
    "Another answer each time."

    def __init__(self):
        super().__init__(lambda text: {"a": f"a{self.calls}"})


@pytest.mark.parametrize(("config", "n"), [({"n": 3}, 3), ({}, 1), ({"n": 2, "temperature": 1.0}, 2)])
def test_all_completions_of_a_call_become_pairs(ledger, llama, config, n):
    class Picks(dspy.Module):
        def __init__(self):
            super().__init__()
            self.step = dspy.Predict("q -> a", **config)

        def forward(self, q):
            out = self.step(q=q)
            return dspy.Prediction(a=out.completions.a[-1])

    lm = dspy.LM("many/many", engine=Many(), cache=False)
    boot, program = bootstrapper(lm), Picks()
    (trace,) = boot.collect([program], examples(1), ledger, num_threads=1)
    assert [trace.calls[0].outputs, *trace.calls[0].more] == [{"a": f"a{i + 1}"} for i in range(n)]
    builder = PairBuilder(program, StudentAdapter(), load_codec(llama))
    built = build(builder, [trace])
    assert sorted(p.completion for p in built.train) == [f"a{i + 1}" for i in range(n)] and built.funnel["calls"]["all"] == n
    boot.metric = lambda e, p, t: t[0][2].completions.a[-1] == p.a
    assert [t.kept for t in boot.collect([program], examples(1), ledger)] == [True] and lm.engine.calls == n
    with boot.replays(program, ledger) as predict:
        assert predict(examples(1)[0], trace).a == f"a{n}"


# -- threads that a program starts by hand ---------------------------------------------------------------------------


def _thread(jobs):
    made = [threading.Thread(target=j) for j in jobs]
    [t.start() for t in made], [t.join() for t in made]


def _pool(jobs):
    with ThreadPoolExecutor(2) as pool:
        [f.exception() for f in [pool.submit(j) for j in jobs]]


def _loop(jobs):
    async def both():
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, j) for j in jobs), return_exceptions=True)

    asyncio.run(both())


def _carried(jobs):
    with ThreadPoolExecutor(2) as pool:
        [f.result() for f in [pool.submit(contextvars.copy_context().run, j) for j in jobs]]


@pytest.mark.parametrize("own_lm", [True, False])
@pytest.mark.parametrize(("start", "lost"), [(_thread, 4), (_pool, 4), (_loop, 4), (_carried, 0)])
def test_calls_from_threads_started_by_hand_are_told(ledger, start, lost, own_lm):
    class ByHand(dspy.Module):
        def __init__(self):
            super().__init__()
            self.hint, self.step = dspy.Predict("q -> a"), dspy.Predict("q -> a")

        def forward(self, q):
            def call():
                try:
                    self.hint(q=q)
                except ValueError:  # no LM in this thread
                    pass

            start([call, call])
            return self.step(q=q)

    lm, program = hearing(), ByHand()
    program.hint.lm = lm if own_lm else None
    traces = bootstrapper(lm).collect([program], examples(2), ledger)
    assert sum(len(t.calls) for t in traces) == 6 - lost
    assert [w.split("(")[1].split(")")[0] for w in traces.warnings] == (["'hint' 4"] if lost else []) and ("dspy.Parallel" in "".join(traces.warnings)) == bool(lost)


def test_what_a_metric_asks_of_a_predictor_is_not_lost(ledger):
    lm = hearing()
    traces = bootstrapper(lm, lambda e, p, t: t[0][0](q="again", notes=[]).a != "").collect([Loop()], examples(1), ledger)
    assert traces[0].kept and not traces.warnings and len(traces[0].calls) == 3


def test_outside_calls_are_counted_by_label(ledger, llama):
    class Outside(Loop):
        def forward(self, q):
            dspy.Predict("q -> a")(q=q), dspy.Predict("q -> a")(q=q)
            self.ask(q, []), self.step(q=q, notes=[], hint="h", signature=self.step.signature.append("hint", dspy.InputField()))
            return self.ask(q, [])

    program = Outside()
    built = build(PairBuilder(program, StudentAdapter(), load_codec(llama)), bootstrapper(hearing()).collect([program], examples(2), ledger))
    assert built.funnel["outside"] == {"all": 6, "q -> a": 4, "q, notes -> a": 2} and built.funnel["calls"] == {"all": 4, "step": 4}


def test_a_teacher_of_another_ledger_is_not_needed_to_score_again(ledger):
    lm = teacher_lm(lambda text: {"a": "a"})
    boot, program = bootstrapper(lm), dspy.Predict("q -> a")
    (trace,) = boot.collect([program], examples(1), ledger)
    with boot.replays(program, ledger.with_name("none.jsonl")) as predict:
        assert predict(examples(1)[0], trace).a == "a" and lm.engine.calls == 1
    assert Ledger(ledger).find(trace.key)[1] == trace
