"""Compiled programs as people use them: under other adapters, copied, pickled, streamed, with another LM."""
import asyncio
import concurrent.futures
import json
import os
import pickle
import subprocess
import sys
from enum import Enum

import cloudpickle
import dspy
import pytest
from dspy.lm15 import Message, Response, Usage

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.data.parity import RequestRecorder
from bsft_nb.engine.lm import StudentEngine, student_lm
from bsft_nb.engine.predict import (
    StudentPredict,
    keep_format,
    reads_adapter,
    teachers_format,
)
from bsft_nb.engine.requests import to_messages
from bsft_nb.lessons import save_llama, teacher_lm
from bsft_nb.models.student_adapter import StudentAdapter, adapter_state


class Answers:
    "An engine that answers as `answer(messages)` says."

    def __init__(self, answer, adapter=None):
        self.answer, self.asked, self.adapter = answer, [], adapter

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        self.asked.append(to_messages(request))
        return Response(id=None, model=request.model, message=Message.assistant(self.answer(self.asked[-1])), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))


def _written(trajectory):
    adapter = dspy.settings.adapter or dspy.ChatAdapter()
    return adapter.format_user_message_content(dspy.Signature(f"{', '.join(trajectory)} -> x"), trajectory)


class Steps(dspy.Module):
    "Writes an input with the adapter that is set, in a function of its own."

    def __init__(self):
        super().__init__()
        self.end = dspy.Predict("question, notes -> answer")

    def forward(self, question):
        return self.end(question=question, notes=_written({"first": question, "second": "two"}))


class Within(dspy.Module):
    "Does so in a module within."

    def __init__(self):
        super().__init__()
        self.steps = Steps()

    def forward(self, question):
        return self.steps(question=question)


def look(what: str) -> str:
    "Looks it up."
    return f"seen {what}"


ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}


def agent_says(adapter):
    "A teacher of a ReAct agent: a tool, then the end, then the answer, in `adapter`'s format."

    def answer(messages):
        text = "".join(m["content"] for m in messages)
        if "next_tool_name" not in messages[0]["content"]:
            fields = {"reasoning": "because", "answer": "blue"}
        elif "seen sky" in text.partition("observation_0")[2]:
            fields = {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}}
        else:
            fields = {"next_thought": "look", "next_tool_name": "look", "next_tool_args": {"what": "sky"}}
        return adapter().format_assistant_message_content(dspy.Signature(f"x -> {', '.join(fields)}"), {k: v if isinstance(v, str) or adapter is dspy.JSONAdapter else json.dumps(v) for k, v in fields.items()})

    return answer


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("program", [lambda: dspy.ReAct("question -> answer", [look]), Steps, Within], ids=["ReAct", "Steps", "Within"])
def test_a_program_asks_what_it_was_trained_on_under_any_adapter(tmp_path, kind, program):
    adapter = ADAPTERS[kind]
    says = agent_says(adapter) if program not in (Steps, Within) else lambda m: adapter().format_assistant_message_content(dspy.Signature("x -> answer"), {"answer": "blue"})
    lm = dspy.LM("scripted/teacher", engine=Answers(says), cache=False)
    target = save_llama(tmp_path / "t", width=16)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    tp = BootstrapFinetune(None, dict(lm=lm, adapter=adapter()))
    rows = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(4)]
    compiled = tp.compile(program(), trainset=rows, target=target, bsize=4, launch="inline", display=False)
    trained = {tuple(m["content"] for m in json.loads(r) if m["role"] == "user") if isinstance(r, str) else tuple(m["content"] for m in r if m["role"] == "user") for part in tp.run.pairs.values() for r in part["messages"]}
    for made in (compiled, bsft_nb.load(tp.run.id, program()), pickle.loads(cloudpickle.dumps(compiled)), compiled.deepcopy()):
        for other in (None, *ADAPTERS.values()):
            said = agent_says(StudentAdapter)
            engine = Answers(lambda m: "blue" if len(made.predictors()) == 1 else said([{"content": "next_tool_name" if m[-1]["content"].endswith("next_thought:") else ""}, *m[1:]]), compiled.predictors()[0].lm.engine.adapter)
            made.set_lm(dspy.LM("bsft/x", engine=engine, cache=False))
            with dspy.context(adapter=other and other()):
                made(question="q3")
            asked = {tuple(m["content"] for m in messages if m["role"] == "user") for messages in engine.asked}
            assert asked <= trained, (kind, other, asked - trained)


def test_only_modules_that_look_at_the_adapter_are_touched():
    class Plain(dspy.Module):
        def __init__(self):
            super().__init__()
            self.a = dspy.ChainOfThought("question -> answer")
            self.b = Steps()

        def forward(self, question):
            return self.b(question=self.a(question=question).answer)

    program = keep_format(Plain(), dspy.ChatAdapter())
    assert type(program) is Plain and isinstance(program.b, Steps) and type(program.b) is not Steps and type(program.a) is dspy.ChainOfThought
    assert [reads_adapter(m) for m in (program, program.b, program.a, program.a.predict)] == [False, True, False, False]


def test_a_teachers_adapter_that_no_file_can_keep_is_told_before_it_is_asked(llama):
    class Mine(dspy.ChatAdapter):
        pass

    lm = teacher_lm(lambda text: {"answer": "x"})
    tp = BootstrapFinetune(None, dict(lm=lm, adapter=Mine()))
    rows = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(4)]
    with pytest.raises(TypeError, match="Steps.*Mine.*teacher_settings"):
        tp.compile(Within(), trainset=rows, target=llama, display=False)
    assert lm.engine.calls == 0 and teachers_format(dspy.Predict("a -> b"), Mine()) is None


class Kind(str, Enum):
    "What a question is about."
    BILL, BUG = "billing", "bug"


class Route(dspy.Signature):
    "Route a message."
    message: str = dspy.InputField()
    kind: Kind = dspy.OutputField()


class Odd(dspy.Predict):
    "A predictor with a method of its own."

    def forward(self, **kwargs):
        return super().forward(**kwargs)


class Desk(dspy.Module):
    "Several kinds of predictors, one of them at two places."

    def __init__(self):
        super().__init__()
        self.route = dspy.Predict(Route)
        self.think = dspy.ChainOfThought("message -> reply")
        self.odd, self.same = Odd("message -> note"), self.route
        self.steps = Within()

    def forward(self, message):
        kind = self.route(message=message).kind
        return dspy.Prediction(kind=kind, note=self.odd(message=message).note, said=self.steps(question=message).answer)


def as_student(folder, source, **meta):
    "A student's folder: the weights of `source`, and what training writes beside them."
    import shutil

    shutil.copytree(source, folder)
    (folder / "bsft.json").write_text(json.dumps({"adapter": adapter_state(StudentAdapter()), "max_tokens": 12, **meta}))
    return folder


@pytest.fixture
def student(llama, tmp_path):
    return as_student(tmp_path / "student", llama, teachers_format={"name": "XMLAdapter"})


def desk(folder):
    program = keep_format(Desk(), dspy.XMLAdapter())
    program.set_lm(student_lm(folder))
    return program


def said(program):
    p = program(message="The invoice is wrong")
    return [p.kind.value, p.note, p.said]


IN_A_FRESH_PROCESS = """
import json, os, pickle, sys
sys.path[:0] = sys.argv[2].split(os.pathsep)
import dspy
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
program = dspy.load(sys.argv[1], allow_pickle=True) if sys.argv[3] == "dspy" else pickle.load(open(sys.argv[1], "rb"))
with dspy.context(adapter=dspy.JSONAdapter()):
    p = program(message="The invoice is wrong")
print(json.dumps([p.kind.value, p.note, p.said]))
"""


@pytest.mark.parametrize("how", ["cloudpickle", "pickle", "dspy"])
def test_a_compiled_program_is_pickled(student, tmp_path, how):
    from pathlib import Path

    program, path = desk(student), tmp_path / "program.pkl"
    before = said(program)
    if how == "dspy":
        path = tmp_path / "saved"
        program.save(path, save_program=True)
    else:
        path.write_bytes((cloudpickle if how == "cloudpickle" else pickle).dumps(program))
    done = subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, str(path), os.pathsep.join(str(p) for p in Path(__file__).parents[:2]), how], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == before


def test_a_copy_keeps_identities_and_the_engine(student):
    for program in (desk(student), desk(student).deepcopy(), pickle.loads(pickle.dumps(desk(student))), cloudpickle.loads(cloudpickle.dumps(desk(student)))):
        assert program.same is program.route and isinstance(program.odd, Odd) and isinstance(program.odd, StudentPredict) and isinstance(program.steps.steps, Steps)
        assert {id(p.lm) for p in program.predictors()} == {id(program.route.lm)}
        assert program.route.lm.engine is StudentEngine.at(student)
    assert pickle.loads(pickle.dumps(student_lm(student))).engine is StudentEngine.at(student)


def test_weights_that_changed_are_seen_when_unpickled(student, tmp_path):
    told = pickle.dumps(desk(student))
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(ValueError, match="weights in .* are not those"):
        pickle.loads(told)


def _asked(lm):
    return [m[-1]["content"] for m in lm.engine.asked]


def a_student():
    return dspy.LM("bsft/x", engine=Answers(lambda m: "yes", StudentAdapter()), cache=False)


def another():
    engine = Answers(lambda m: "[[ ## answer ## ]]\nyes\n[[ ## completed ## ]]")
    del engine.adapter
    return dspy.LM("other/x", engine=engine, cache=False)


@pytest.mark.parametrize("adapter", [None, dspy.JSONAdapter])
@pytest.mark.parametrize("prepared", [True, False])
def test_the_lm_that_is_set_decides_the_format(prepared, adapter):
    program = dspy.Predict("question -> answer")
    program = keep_format(program) if prepared else program
    one, other = a_student(), another()
    with dspy.context(adapter=adapter and adapter()):
        program.set_lm(one)
        assert program(question="why").answer == "yes" and _asked(one) == ["question: why\nanswer:"]
        assert program(question="why", lm=one).answer == "yes"
        with dspy.context(lm=one):
            program.set_lm(None)
            assert program(question="why").answer == "yes" and len(set(_asked(one))) == 1
        asyncio.run(program.acall(question="why", lm=dspy.LM("bsft/x", engine=one.engine, async_engine=Async(one.engine), cache=False)))
        assert len(_asked(one)) == 4 and len(set(_asked(one))) == 1
    program.set_lm(other)
    assert program(question="why").answer == "yes" and "[[ ## question ## ]]" in _asked(other)[0]


class Async:
    def __init__(self, engine):
        self.engine, self.adapter = engine, engine.adapter

    async def complete(self, request):
        return self.engine.complete(request)


def test_another_lm_in_a_prepared_module_has_the_users_adapter():
    program, other = keep_format(Within(), dspy.XMLAdapter()), another()
    program.set_lm(other)
    program(question="why")
    assert "[[ ## first ## ]]" in _asked(other)[0] and "<first>" not in _asked(other)[0]


def test_dspys_own_load_keeps_the_students_format(student, tmp_path):
    program = desk(student)
    program.save(tmp_path / "p.json")
    plain = Desk()
    plain.load(tmp_path / "p.json", allow_unsafe_lm_state=True)
    assert type(plain.route) is dspy.Predict
    message = "The invoice is wrong"
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert plain.route(message=message).kind == program.route(message=message).kind and plain.odd(message=message).note == program.odd(message=message).note


def test_what_is_asked_is_what_parity_compares(student):
    program = desk(student)
    recorder = RequestRecorder(StudentAdapter())
    with pytest.raises(Exception, match="recorded"):
        program.route(message="m", lm=dspy.LM("bsft/x", engine=recorder, cache=False, num_retries=0))
    assert to_messages(recorder.requests[0])[-1]["content"] == "message: m\nkind:"


def test_inputs_in_json_form_are_no_mismatch(caplog):
    import logging
    from datetime import date

    class Ask(dspy.Signature):
        who: dict[str, int] = dspy.InputField()
        when: date = dspy.InputField()
        kind: Kind = dspy.InputField()
        tags: set[str] = dspy.InputField()
        answer: str = dspy.OutputField()

    program = keep_format(dspy.Predict(Ask))
    program.set_lm(a_student())
    good = dict(who={"a": 1}, when="2024-01-02", kind="billing", tags=["x"])
    logging.getLogger("dspy").setLevel(logging.WARNING)
    logging.getLogger("dspy").propagate = True
    try:
        with caplog.at_level(logging.WARNING, "dspy"):
            program(**good)
            assert not [r for r in caplog.records if "mismatch" in r.getMessage()]
            for key, bad in (("who", {"a": "x"}), ("when", "soon"), ("kind", "weather"), ("tags", 3)):
                caplog.clear()
                program(**{**good, key: bad})
                assert [r for r in caplog.records if f"mismatch for field '{key}'" in r.getMessage()], key
    finally:
        logging.getLogger("dspy").propagate = False


def heard(program, listeners, sync=False, **inputs):
    "What a streamed call yields, and its prediction."
    made = dspy.streamify(program, stream_listeners=listeners, async_streaming=not sync, is_async_program=False)

    async def collect():
        return [v async for v in made(**inputs)]

    if sync:
        out = list(made(**inputs))
    else:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            out = pool.submit(asyncio.run, collect()).result()
    parts = [v for v in out if isinstance(v, dspy.streaming.StreamResponse)]
    return parts, [v for v in out if isinstance(v, dspy.Prediction)][-1]


@pytest.mark.parametrize(("adapter", "sync"), [(None, True), (dspy.JSONAdapter, False), (dspy.XMLAdapter, False)])
@pytest.mark.parametrize("how", ["prepared", "plain", "t5", "chat"])
def test_a_listener_hears_every_output_of_a_student(llama, t5, tmp_path, how, sync, adapter):
    own = {"t5": StudentAdapter("<extra_id_0>", "%<\n{}"), "chat": dspy.ChatAdapter()}.get(how, StudentAdapter())
    folder = as_student(tmp_path / "s", t5 if how == "t5" else llama, adapter=adapter_state(own))
    program = dspy.Predict("question -> first, second, third: int")
    values = {"first": "so it is,\nsecond to none", "second": "x" * 20 + " y", "third": 12}
    program = program if how == "plain" else keep_format(program)
    program.set_lm(student_lm(folder, max_tokens=200))
    script(program.lm.engine, own.format_assistant_message_content(program.signature, values))
    with dspy.context(adapter=adapter and adapter()):
        listeners = [dspy.streaming.StreamListener(n) for n in values]
        parts, prediction = heard(program, listeners, sync, question="why")
    assert {n: getattr(prediction, n) for n in values} == values
    joined = {n: "".join(p.chunk for p in parts if p.signature_field_name == n) for n in values}
    assert joined == {n: str(v) for n, v in values.items()}
    assert [p.signature_field_name for p in parts if p.is_last_chunk] == list(values) and len(parts) > 5


def script(engine, text):
    "Make an engine's stream give `text` in pieces of three characters."
    from dspy.lm15 import StreamDeltaEvent, StreamEndEvent, StreamStartEvent, TextDelta

    def stream(request):
        yield StreamStartEvent(model=request.model)
        for i in range(0, len(text), 3):
            yield StreamDeltaEvent(TextDelta(text[i : i + 3]))
        yield StreamEndEvent(finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))

    engine.stream = stream


@pytest.mark.parametrize("again", [True, False])
def test_a_listener_is_used_again_where_it_says_so(student, again):
    program = keep_format(dspy.Predict("question -> answer"))
    program.set_lm(student_lm(student))
    listener = dspy.streaming.StreamListener("answer", allow_reuse=again)
    for i in range(2):
        parts, prediction = heard(program, [listener], question=f"why {i}")
        assert "".join(p.chunk for p in parts) == (prediction.answer if again or i == 0 else "")
