"""Compiled programs as people use them: under other adapters, copied, pickled, streamed, with another LM."""
import asyncio
import concurrent.futures
import json
import pickle
import subprocess
import sys
from enum import Enum
from typing import Literal

import cloudpickle
import dspy
import pytest
from conftest import save_llama, save_t5, teacher_lm
from dspy.lm15 import Message, Response, Usage

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.engine import StudentEngine, keep_format, student_lm
from bsft_nb.formats import StudentAdapter, adapter_state
from bsft_nb.parity import RequestRecorder
from bsft_nb.predict import StudentPredict, reads_adapter, teachers_format
from bsft_nb.rows import to_messages


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
    for program in (compiled, bsft_nb.load(tp.run.id, program()), pickle.loads(cloudpickle.dumps(compiled)), compiled.deepcopy()):
        for other in (None, *ADAPTERS.values()):
            said = agent_says(StudentAdapter)
            engine = Answers(lambda m: "blue" if len(program.predictors()) == 1 else said([{"content": "next_tool_name" if m[-1]["content"].endswith("next_thought:") else ""}, *m[1:]]), compiled.predictors()[0].lm.engine.adapter)
            program.set_lm(dspy.LM("bsft/x", engine=engine, cache=False))
            with dspy.context(adapter=other and other()):
                program(question="q3")
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
