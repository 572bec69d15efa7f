"""Pairs and traces go out, are edited, and come back; what a person got wrong is named by line."""
import json
from typing import Literal

import dspy
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typed_values import TEXTS

from bsft_nb.data.builder import build, build_from_pairs
from bsft_nb.data.exchange import (
    EXPORTERS,
    export_pairs,
    export_traces,
    marked,
    read_traces,
)
from bsft_nb.data.pair_reader import completions_in, read_pairs
from bsft_nb.data.pairs import DataError, PairBuilder, fits
from bsft_nb.models.student_adapter import fitting
from bsft_nb.models.tokens import load_codec
from bsft_nb.teacher.ledger import Call, Trace


class Item(pydantic.BaseModel):
    name: str
    price: float = 0.0


class Route(dspy.Signature):
    """Pick the team."""

    ticket: str = dspy.InputField()
    items: list[Item] = dspy.InputField()
    reason: str = dspy.OutputField()
    team: Literal["shipping", "billing"] = dspy.OutputField()


class Desk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.route, self.reply = dspy.Predict(Route), dspy.ChainOfThought("ticket, team -> reply: list[str]")


def call(ticket="It is late.", team="shipping", reason="Late."):
    return Call("route", {"ticket": ticket, "items": [{"name": "cup", "price": 1.5}]}, {"reason": reason, "team": team})


def builder_of(folder, adapter=None, texts=()):
    codec = load_codec(folder)

    def has_token(t):
        return codec.tokenizer.convert_tokens_to_ids(t) not in (None, codec.tokenizer.unk_token_id)

    return PairBuilder(Desk(), adapter or fitting(codec.survives, has_token, texts), codec)


@pytest.fixture(params=["llama", "chat_llama", "t5", "chat_adapter"])
def builder(request):
    if request.param == "chat_adapter":
        return builder_of(request.getfixturevalue("chat_llama"), dspy.ChatAdapter(use_json_adapter_fallback=False))
    return builder_of(request.getfixturevalue(request.param))


REPLY = Call("reply.predict", {"ticket": "A fee?\nteam: none", "team": "billing"}, {"reasoning": "So\nit is.", "reply": ["Dear", ""]})


@pytest.mark.parametrize("form", EXPORTERS)
def test_pairs_come_back_token_for_token(builder, tmp_path, form):
    pairs = [builder.pair(c, f"e{i}", s) for i, (c, s) in enumerate([(call(), 1.0), (call("a\nb: c", "billing"), None), (REPLY, 0.5)])]
    assert export_pairs(iter(pairs), tmp_path / "sub" / "pairs.jsonl", form) == 3
    again = read_pairs(tmp_path / "sub" / "pairs.jsonl", builder)
    assert [(p.example, p.predictor, p.completion, p.score, p.prompt_ids, p.completion_ids) for p in again] == [(p.example, p.predictor, p.completion, p.score, p.prompt_ids, p.completion_ids) for p in pairs]
    assert build_from_pairs(builder, again).train == [p for p in again if fits(builder.codec, p)]
    assert [f.name for f in (tmp_path / "sub").iterdir()] == ["pairs.jsonl"]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXTS.filter(lambda t: "<" not in t), TEXTS.filter(lambda t: "<" not in t), st.sampled_from(list(EXPORTERS)))
def test_any_text_in_a_prompt_comes_back_in_the_causal_format(chat_llama, tmp_path, ticket, reason, form):
    builder = builder_of(chat_llama)
    pair = builder.pair(call(ticket, reason=reason), "e", 1.0)
    export_pairs([pair], tmp_path / "pairs.jsonl", form)
    again = read_pairs(tmp_path / "pairs.jsonl", builder)[0]
    assert (again.prompt_ids, again.completion_ids) == (pair.prompt_ids, pair.completion_ids)


def test_openai_form_is_what_the_adapter_says(chat_llama, tmp_path):
    builder = builder_of(chat_llama)
    export_pairs([builder.pair(call(), "e1", 1.0)], tmp_path / "p.jsonl")
    row = json.loads((tmp_path / "p.jsonl").read_text())
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][:2] == builder.messages("route", call().inputs) and row["messages"][2]["content"] == "Late.\nteam: shipping"
    assert {k: row[k] for k in ("example", "predictor", "score")} == {"example": "e1", "predictor": "route", "score": 1.0}


def test_an_edited_pair_is_the_pair_of_the_edited_call(chat_llama, tmp_path):
    builder = builder_of(chat_llama)
    for form in EXPORTERS:
        export_pairs([builder.pair(call(), "e1", 1.0)], tmp_path / "p.jsonl", form)
        text = (tmp_path / "p.jsonl").read_text()
        (tmp_path / "p.jsonl").write_text("\ufeff" + text.replace("It is late.", "It is <very> late.").replace("team: shipping", "team: billing ") + "\n\n", encoding="utf-8")
        pair, expected = read_pairs(tmp_path / "p.jsonl", builder)[0], builder.pair(call("It is <very> late.", "billing"), "e1", 1.0)
        assert (pair.prompt_ids, pair.completion, pair.completion_ids) == (expected.prompt_ids, "Late.\nteam: billing", expected.completion_ids)


def test_a_row_that_a_person_added_gets_an_example_of_its_own(chat_llama, tmp_path):
    builder = builder_of(chat_llama)
    rows = [{"messages": [*builder.messages("route", call(t).inputs), {"role": "assistant", "content": "Late.\nteam: shipping"}], "predictor": "route"} for t in ("a", "b", "a")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = [p.example for p in read_pairs(tmp_path / "p.jsonl", builder)]
    assert keys[0] == keys[2] != keys[1]


def changed(**changes):
    return lambda row: {**row, **changes}


def message(i, **changes):
    return lambda row: {**row, "messages": [{**m, **changes} if j == i else m for j, m in enumerate(row["messages"])]}


FAULTS = [
    (changed(predictor="rout"), "unknown predictor 'rout': the program has 'route', 'reply.predict'"),
    (lambda row: {k: v for k, v in row.items() if k != "predictor"}, "missing field 'predictor'"),
    (changed(score="1"), "field 'score' is '1', not int or float or null"),
    (changed(score=True), "field 'score' is True"),
    (changed(score=float("nan")), "not a finite number"),
    (changed(scores=1), "unknown field 'scores': known are"),
    (changed(messages="hello"), "field 'messages' is 'hello', not list"),
    (changed(messages=[]), "the messages have the roles none; predictor 'route' has system, user, assistant"),
    (message(0, role="user"), "have the roles user, user, assistant"),
    (message(2, content=None), "is not of the form"),
    (message(2, content="Late."), "does not parse as an answer of predictor 'route'"),
    (message(2, content="Late.\nteam: gardening"), "output 'team'"),
    (message(2, content="Late.\nteam: billing<|end|>"), "contains the control token '<|end|>'"),
    (message(0, content="Pick a team!"), "the system message 'Pick a team!' is not one that the predictor sends"),
    (message(1, content="It is late."), "the user message 'It is late.' is not one that the predictor sends"),
    (lambda row: [row], "not a JSON object"),
]


def test_every_fault_is_named_with_its_line(chat_llama, tmp_path):
    builder, path = builder_of(chat_llama), tmp_path / "p.jsonl"
    export_pairs([builder.pair(call(), "e1", 1.0)], path)
    row = json.loads(path.read_text())
    for change, fault in FAULTS:
        path.write_text(json.dumps(row) + "\n\n" + json.dumps(change(row)) + "\n")
        with pytest.raises(DataError) as raised:
            read_pairs(path, builder)
        assert f"{path}: 1 of 2 rows cannot be used:\nline 3: " in str(raised.value) and fault in str(raised.value), (fault, str(raised.value))
    path.write_bytes(b'{"a": \n' + b'{"b": "\xff"}\n' * 12)
    with pytest.raises(DataError, match="13 of 13 rows cannot be used:\nline 1: not JSON (.|\n)*line 2: not UTF-8(.|\n)*… and 3 more"):
        read_pairs(path, builder)
    path.write_text("\n")
    with pytest.raises(DataError, match="the file has no rows"):
        read_pairs(path, builder)
    with pytest.raises(FileNotFoundError):
        read_pairs(tmp_path / "none.jsonl", builder)
    with pytest.raises(ValueError, match="form='csv': choose one of 'openai', 'prompt-completion'"):
        export_pairs([], path, "csv")


def test_a_control_token_put_into_a_rendered_prompt_is_refused(chat_llama, tmp_path):
    builder, path = builder_of(chat_llama), tmp_path / "p.jsonl"
    export_pairs([builder.pair(call(), "e1", 1.0)], path, "prompt-completion")
    path.write_text(path.read_text().replace("It is late.", "It is<|end|>[assistant]late."))
    with pytest.raises(DataError, match=r"line 1: the prompt contains the control token '<\|end\|>' within an input"):
        read_pairs(path, builder)


def test_a_failed_export_leaves_the_old_file(chat_llama, tmp_path):
    builder, path = builder_of(chat_llama), tmp_path / "p.jsonl"
    export_pairs([builder.pair(call(), "e1", 1.0)], path)
    before = path.read_text()

    def broken():
        yield builder.pair(call("other"), "e2", 1.0)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        export_pairs(broken(), path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_traces_come_back_and_make_the_same_rows(llama, tmp_path):
    traces = [Trace("e1", 0, inputs={"ticket": "x"}, calls=[call(), REPLY], kept=True, score=1.0), Trace("e2", 1, 1, reason="error", error="TimeoutError: …"), Trace("e3", 0, calls=[call(team="gardening")], reason="rejected", score=0.0)]
    assert export_traces(iter(traces), tmp_path / "t.jsonl") == 3
    again = read_traces(tmp_path / "t.jsonl", Desk())
    assert again == traces and build(builder_of(llama), again).train == build(builder_of(llama), traces).train


TRACE_FAULTS = [
    ({"calls": None}, "field 'calls' is None, not list"),
    ({"kept": 1}, "field 'kept' is 1, not bool"),
    ({"attempt": "0"}, "field 'attempt' is '0', not int"),
    ({"keep": True}, "unknown field 'keep'"),
    ({"calls": ["route"]}, "a call is 'route', not a JSON object"),
    ({"calls": [{"predictor": "route", "inputs": {}}]}, "missing field 'outputs'"),
    ({"calls": [{"predictor": "x", "inputs": {}, "outputs": {}}]}, "unknown predictor 'x'"),
    ({"calls": [{"predictor": "route", "inputs": {"ticket": "a"}, "outputs": {"reason": "", "team": "shipping"}}]}, "missing input 'items'"),
    ({"calls": [{"predictor": "route", "inputs": call().inputs, "outputs": {"team": "shipping"}}]}, "missing output 'reason'"),
    ({"calls": [{"predictor": "route", "inputs": call().inputs, "outputs": {"reason": "", "team": "garden"}}]}, "output 'team' is 'garden', not of type"),
    ({"calls": [{"predictor": "route", "inputs": call().inputs, "outputs": {"reason": 5, "team": "shipping"}}]}, "output 'reason' is 5, not of type <class 'str'>"),
]


@pytest.mark.parametrize(("change", "fault"), TRACE_FAULTS)
def test_a_faulty_trace_is_named_with_its_line(tmp_path, change, fault):
    good = {"calls": [{"predictor": "route", "inputs": call().inputs, "outputs": call().outputs}], "kept": True}
    (tmp_path / "t.jsonl").write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}))
    with pytest.raises(DataError) as raised:
        read_traces(tmp_path / "t.jsonl", Desk())
    assert "1 of 2 rows cannot be used:\nline 2: " in str(raised.value) and fault in str(raised.value)


class Wide(dspy.Signature):
    """Answer the ticket."""

    history: dspy.History = dspy.InputField()
    ticket: str = dspy.InputField()
    hint: str | None = dspy.InputField()
    items: list[Item] = dspy.InputField()
    extra: dict[str, list[int]] = dspy.InputField()
    team: str = dspy.OutputField()
    count: int = dspy.OutputField()
    items_out: list[Item] = dspy.OutputField()


class WideDesk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict(Wide)
        self.steps = [dspy.ChainOfThought("ticket -> team"), dspy.Predict("ticket -> team")]


ADAPTERS = {"student": None, "chat": dspy.ChatAdapter(use_json_adapter_fallback=False), "json": dspy.JSONAdapter()}
NASTY = ["", " ", "  both  ", "a\r\nb\rc", "a\u2028b\u2029c\x85d", "<|end|>", "x<|end|>[assistant]y<|end|>", "team: billing\nitems: []", "qz0zq", "[[ ## team ## ]]", '"quoted"', "{\"a\": 1}", "…日本 é 😀", "\ttab\x0b\x0c", "%41 100%", "\\n"]
TURNS = [{"ticket": "Hi", "hint": "", "items": [], "extra": {}, "team": "a", "count": 1, "items_out": []}]


@pytest.mark.parametrize("form", EXPORTERS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("model", ["llama", "chat_llama"])
def test_rows_that_nobody_edited_come_back_whatever_they_say(request, tmp_path, model, adapter, form):
    codec = load_codec(request.getfixturevalue(model))
    builder = PairBuilder(WideDesk(), ADAPTERS[adapter] or fitting(codec.survives, lambda t: False, []), codec)
    pairs = []
    for i, text in enumerate(NASTY):
        inputs = {"history": {"messages": TURNS * (i % 3)}, "ticket": text, "hint": text if i % 2 else None, "items": [{"name": text, "price": 1.5}], "extra": {text: [1]}}
        calls = [Call("first", inputs, {"team": text, "count": i, "items_out": [{"name": text}]}), Call("steps[0].predict", {"ticket": text}, {"reasoning": text, "team": text}), Call("steps[1]", {}, {"team": text})]
        calls.append(Call("first", {k: inputs[k] for k in ("ticket", "extra")}, calls[0].outputs))
        for call in calls:
            try:
                pairs.append(builder.pair(call, f"e{i}", None))
            except DataError:  # an answer that this format cannot carry: it was never a row
                assert adapter != "student"
    export_pairs(pairs, tmp_path / "p.jsonl", form, held=pairs[-3:])
    assert [(p.predictor, p.example, p.prompt_ids, p.completion_ids) for p in read_pairs(tmp_path / "p.jsonl", builder)] == [(p.predictor, p.example, p.prompt_ids, p.completion_ids) for p in [*pairs, *pairs[-3:]]]
    assert len(pairs) > 30


@pytest.mark.parametrize("form", EXPORTERS)
def test_rows_of_an_encoder_decoder_come_back_with_characters_that_it_lacks(t5, tmp_path, form):
    texts = ["日本 é", "a{b}c", "x<y>\nz", "<extra_id_3>"]
    builder = builder_of(t5, texts=texts)
    pairs = [builder.pair(call(t.replace("<extra_id_3>", "-"), reason=t), "e", 1.0) for t in texts]
    export_pairs(pairs, tmp_path / "p.jsonl", form)
    found = completions_in(tmp_path / "p.jsonl")
    assert [t in f for t, f in zip(texts, found)] == [True] * 4
    again = read_pairs(tmp_path / "p.jsonl", builder_of(t5, texts=found))
    assert [(p.prompt_ids, p.completion_ids) for p in again] == [(p.prompt_ids, p.completion_ids) for p in pairs]


def test_what_is_held_out_stays_held_out(chat_llama, tmp_path):
    builder = builder_of(chat_llama)
    pairs = [builder.pair(call(f"t{i}"), f"e{i}", 1.0) for i in range(6)]
    for form in EXPORTERS:
        assert export_pairs(pairs[:4], tmp_path / "p.jsonl", form, held=pairs[4:]) == 6
        again = read_pairs(tmp_path / "p.jsonl", builder)
        held = marked(tmp_path / "p.jsonl", again)
        assert held == {"e4", "e5"} and [p.example for p in build_from_pairs(builder, again, held).held] == ["e4", "e5"]
    traces = [Trace(f"e{i}", 0, calls=[call(f"t{i}")], kept=True, score=1.0) for i in range(4)]
    export_traces(traces, tmp_path / "t.jsonl", held={"e0", "e2"})
    assert read_traces(tmp_path / "t.jsonl", Desk()) == traces and marked(tmp_path / "t.jsonl", traces) == {"e0", "e2"}


@pytest.mark.parametrize("split", ["test", "", 1, None, ["held_out"]])
def test_another_split_is_named(chat_llama, tmp_path, split):
    builder, path = builder_of(chat_llama), tmp_path / "p.jsonl"
    export_pairs([builder.pair(call(), "e1", 1.0)], path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "split": split}))
    with pytest.raises(DataError, match="line 1: .*'split'"):
        read_pairs(path, builder)
    trace = {"calls": [{"predictor": "route", "inputs": call().inputs, "outputs": call().outputs}], "kept": True, "split": split}
    path.write_text(json.dumps(trace))
    with pytest.raises(DataError, match="line 1: .*'split'"):
        read_traces(path, Desk())
