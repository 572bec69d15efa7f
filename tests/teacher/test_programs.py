"""Programs of every shape that people have, and what is said where a program or a metric fails."""
import asyncio
import functools

import dspy
import pytest

from bsft_nb import BootstrapFinetune
from bsft_nb.data.parity import asks_others
from bsft_nb.lessons import teacher_lm
from bsft_nb.optimizer.preflight import prompt_tokens
from bsft_nb.results.evaluate import evaluate, reason_line
from bsft_nb.teacher.bootstrap import TraceBootstrapper
from bsft_nb.teacher.ledger import Ledger
from bsft_nb.teacher.metric import check_metric
from bsft_nb.teacher.programs import NoPrediction, call_program


def yes():
    return teacher_lm(lambda text: {"answer": "yes"})


class Waits:
    "The async counterpart of a scripted engine."

    def __init__(self, engine):
        self.engine = engine

    async def complete(self, request):
        await asyncio.sleep(0)
        return self.engine.complete(request)


def both_ways(answer):
    engine = teacher_lm(answer).engine
    return dspy.LM("scripted/teacher", engine=engine, async_engine=Waits(engine), cache=False)


def rows(n, **more):
    return [dspy.Example(question=f"q{i}", answer="yes", **more).with_inputs("question") for i in range(n)]


class Asks(dspy.Module):
    def __init__(self):
        super().__init__()
        self.p = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.p(question=question)


class Later(dspy.Module):
    def __init__(self):
        super().__init__()
        self.p = dspy.Predict("question -> answer")

    async def aforward(self, question):
        await asyncio.sleep(0)
        return await self.p.acall(question=question)


class Both(Later):
    async def aforward(self, question):
        a, b = await asyncio.gather(self.p.acall(question=question), self.p.acall(question=f"{question} again"))
        return dspy.Prediction(answer=a.answer, second=b.answer)


class Talks(dspy.Module):
    "Makes a `dspy.History` as it runs."

    def __init__(self):
        super().__init__()
        self.p = dspy.Predict(dspy.Signature("question, history: dspy.History -> answer"))

    def forward(self, question):
        history = dspy.History(messages=[])
        first = self.p(question=question, history=history)
        return self.p(question=question, history=dspy.History(messages=[{"question": question, "answer": first.answer}]))


SHAPES = {
    "aforward": Later, "gather": Both, "syncify": lambda: dspy.syncify(Later()), "wrapped": lambda: dspy.syncify(Later(), in_place=False),
    "cot": lambda: dspy.syncify(dspy.ChainOfThought("question -> answer")), "plain": Asks,
}


def collected(program, lm, folder, metric=None, n=3, **more):
    boot = TraceBootstrapper(metric=metric, teacher_settings={"lm": lm}, max_bootstrapped_demos=9, max_labeled_demos=0, **more)
    return boot.collect([program], rows(n), folder / "l.jsonl", num_threads=1)


@pytest.mark.parametrize("sync", [True, False], ids=["no async LM", "async LM"])
@pytest.mark.parametrize("shape", SHAPES)
def test_async_programs_are_bootstrapped_and_evaluated_like_others(shape, sync, tmp_path):
    lm = (teacher_lm if sync else both_ways)(lambda text: {"reasoning": "so", "answer": "yes"})
    traces = list(collected(SHAPES[shape](), lm, tmp_path, lambda e, p, t=None: p.answer == "yes" and bool(t)))
    calls = 2 if shape == "gather" else 1
    assert [t.kept for t in traces] == [True] * 3 and lm.engine.calls == 3 * calls
    assert all(len(t.calls) == calls and not t.outside for t in traces)
    assert list(collected(SHAPES[shape](), lm, tmp_path, lambda e, p, t=None: p.answer == "yes" and bool(t))) == traces and lm.engine.calls == 3 * calls
    answers = evaluate(SHAPES[shape](), rows(2), lambda e, p, t=None: p.answer == e.answer, lm=both_ways(lambda text: {"reasoning": "so", "answer": "yes"}))
    assert [a.score for a in answers] == [1.0, 1.0] and all(len(a.calls) == calls for a in answers)


def test_async_programs_run_where_a_loop_runs_already():
    async def cell():
        with dspy.context(lm=both_ways(lambda text: {"answer": "yes"})):
            return call_program(Later(), {"question": "q"})

    assert asyncio.run(cell()).answer == "yes"


@pytest.mark.parametrize("make", [Later, Talks])
def test_they_are_compiled(make, llama, tmp_path):
    lm = yes()
    tp = BootstrapFinetune(lambda e, p, trace=None: p.answer == "yes", dict(lm=lm))
    kwargs = dict(trainset=rows(6), target=str(llama), bsize=4, display=False, launch="inline")
    assert tp.preflight(make(), **kwargs).calls == 6
    compiled = tp.compile(make(), **kwargs)
    called = lm.engine.calls
    assert compiled.p.lm.model.startswith("bsft/") and tp.run.scores.keys() == {"untuned", "teacher", "tuned"}
    tp.compile(make(), **kwargs)
    assert lm.engine.calls == called


def test_inputs_that_the_program_makes_need_no_example():
    class Image(dspy.Signature):
        question: str = dspy.InputField()
        picture: dspy.Image = dspy.InputField()
        history: dspy.History = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        answer: str = dspy.OutputField()

    assert prompt_tokens(Talks(), rows(2)) > 50 < prompt_tokens(dspy.Predict(Image), rows(2))


@pytest.mark.parametrize("value", [None, "yes", {"answer": "yes"}, ["yes"], ("yes", 1), 3])
@pytest.mark.parametrize("base", [Asks, Later])
def test_what_is_no_prediction_ends_all_after_the_first_attempt(value, base, tmp_path):
    class Odd(base):
        pass

    def forward(self, question):
        self.p(question=question)
        return value

    async def aforward(self, question):
        await self.p.acall(question=question)
        return value

    setattr(Odd, *(("forward", forward) if base is Asks else ("aforward", aforward)))
    lm = yes()
    with pytest.raises(NoPrediction, match=rf"Odd.{'forward' if base is Asks else 'aforward'} returned .*\({type(value).__name__}\).*dspy.Prediction"):
        collected(Odd(), lm, tmp_path, n=9)
    assert lm.engine.calls == 1
    store = Ledger(tmp_path / "l.jsonl")
    assert len(store.index.calls) == 1, "what was paid for is kept"
    store.close()


def test_a_program_without_forward_is_refused_at_once(llama):
    class Empty(dspy.Module):
        def __init__(self):
            super().__init__()
            self.p = dspy.Predict("question -> answer")

    with pytest.raises(TypeError, match="neither forward nor aforward"):
        BootstrapFinetune(None, dict(lm=yes())).compile(Empty(), trainset=rows(3), target=str(llama), display=False)


class Judge:
    async def __call__(self, example, prediction, trace=None):
        return True

    async def score(self, example, prediction, trace=None):
        return True


async def later(example, prediction, trace=None):
    return True


@functools.wraps(later)
def wrapped(*args):
    return later(*args)


@pytest.mark.parametrize("metric", [later, Judge(), Judge().score, functools.partial(later, trace=1), functools.partial(functools.partial(Judge())), wrapped])
def test_async_metrics_are_refused_at_once(metric):
    with pytest.raises(TypeError, match="async function: what it returns is a coroutine"):
        check_metric(metric)
    check_metric(lambda example, prediction, trace=None: asyncio.run(later(example, prediction)))


class Picky(Exception):
    pass


def raises(error):
    def metric(example, prediction, trace=None):
        raise error

    return metric


METRICS = {
    "AttributeError: .*'prediction_'": lambda e, p, t=None: p.prediction_, r"TypeError: the metric returned \['yes'\] \(list\)": lambda e, p, t=None: [p.answer],
    r"TypeError: the metric returned 'good' \(str\)": lambda e, p, t=None: "good", "ZeroDivisionError": lambda e, p, t=None: 1 / 0,
    "KeyError: 'label'": lambda e, p, t=None: {}["label"], "Picky$": raises(Picky()), "ValueError: an empty line first": raises(ValueError("\n\nan empty line first")),
    "NaN": lambda e, p, t=None: float("nan"), r"\(coroutine\)": lambda e, p, t=None: later(e, p),
}


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("said", METRICS)
def test_errors_of_the_metric_are_told_as_such(said, llama):
    lm = yes()
    kwargs = dict(trainset=rows(4), target=str(llama), display=False, launch="inline")
    with pytest.raises(Exception, match=f"(?s)The metric failed in 4 of 4 attempts: [^\n]*{said.rstrip('$')}.*'question': 'q0'.*nobody is asked for it again") as e:
        BootstrapFinetune(METRICS[said], dict(lm=lm)).compile(Asks(), **kwargs)
    assert "max_rounds" not in str(e.value) and lm.engine.calls == 4


def test_some_errors_of_the_metric_are_a_warning(llama):
    def metric(example, prediction, trace=None):
        return {"q1": 1, "q2": "odd"}.get(example.question, 1) if example.question != "q3" else example.nothing

    tp = BootstrapFinetune(metric, dict(lm=yes()))
    tp.compile(Asks(), trainset=rows(8), target=str(llama), display=False, launch="inline", bsize=4)
    [note] = [e.data["note"] for e in tp.run.events if e.kind == "warn" and "metric failed at" in e.data["note"]]
    assert "2 of 8 teacher attempts" in note and "nothing" in note.lower() and "question" in note


@pytest.mark.parametrize("error", [ValueError("No key was given"), OSError("[Errno 111] Connection refused\nsecond line"), Picky()])
def test_one_error_of_all_attempts_is_that_error(error, llama):
    class Breaks(Asks):
        def forward(self, question):
            raise error

    kwargs = dict(trainset=rows(4), target=str(llama), display=False, launch="inline")
    said = reason_line(f"{type(error).__name__}: {error}").rstrip(": ")
    with pytest.raises(Exception) as e:
        BootstrapFinetune(None, dict(lm=yes())).compile(Breaks(), **kwargs)
    assert f"The teacher's program failed in 4 of 4 attempts: {said}" in str(e.value) and "max_rounds" not in str(e.value)
    with pytest.raises(RuntimeError, match="2 teacher attempts failed, the last with") as e:
        BootstrapFinetune(None, dict(lm=yes()), max_errors=2, num_threads=1).compile(Breaks(), **kwargs)
    assert said.split(":")[0] in str(e.value)


def test_a_few_errors_are_told_without_hiding_the_rest(llama):
    def metric(example, prediction, trace=None):
        return example.nothing if example.question == "q1" else 0

    with pytest.raises(Exception, match="(?s)The metric failed in 1 of 6 attempts: AttributeError.*rejected, score 0.*raise max_rounds="):
        BootstrapFinetune(metric, dict(lm=yes())).compile(Asks(), trainset=rows(6), target=str(llama), display=False, launch="inline")


def test_too_many_errors_of_the_metric_name_the_metric_and_the_example(llama):
    with pytest.raises(RuntimeError, match=r"2 teacher attempts failed, the last in the metric, with ZeroDivisionError: division by zero, at the example \{'question': 'q"):
        BootstrapFinetune(lambda e, p, t=None: 1 / 0, dict(lm=yes()), max_errors=2, num_threads=1).compile(Asks(), trainset=rows(4), target=str(llama), display=False, launch="inline")


def test_reasons_are_the_exceptions_own():
    import traceback

    from pydantic import BaseModel

    class M(BaseModel):
        a: int

    async def group():
        async with asyncio.TaskGroup() as g:
            g.create_task(fails(ValueError("boom")))

    async def fails(e):
        raise e

    said = {
        "ValidationError: 1 validation error for M a Input": lambda: M(a="x"), "ValueError: boom": lambda: asyncio.run(group()), "Picky": lambda: asyncio.run(fails(Picky())),
        "SyntaxError: invalid syntax": lambda: compile("a b", "<unknown>", "eval"), "ValueError: second": lambda: asyncio.run(fails(ValueError("\n\nsecond"))),
    }
    for line, fn in said.items():
        with pytest.raises(BaseException) as e:
            fn()
        assert reason_line("".join(traceback.format_exception(e.value))).startswith(line)
    assert reason_line(None) == ""


def test_who_else_is_asked_is_seen_in_async_programs_too():
    class Aside(dspy.Module):
        def __init__(self):
            super().__init__()
            self.known = dspy.Predict("q -> a")

        async def aforward(self, q):
            return await dspy.Predict("q -> aside").acall(q=q)

    assert asks_others(Aside(), {"q": "x"}) == ["q -> aside"]
