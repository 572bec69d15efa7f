"""From traces to rows: what is counted, held out, merged, refused; and that prompts are the ones asked."""
import json
from typing import Literal

import dspy
import pydantic
import pytest
from dspy.adapters.utils import serialize_for_json
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from typed_values import TYPED

from bsft_nb.data.builder import (
    build,
    build_from_pairs,
    check_rows,
    held_out,
    load_pairs,
    save_pairs,
    to_dataset,
)
from bsft_nb.data.dedupe import CONFLICTS
from bsft_nb.data.funnel import funnel_html, funnel_text
from bsft_nb.data.pairs import DataError, PairBuilder, check_parity
from bsft_nb.data.parity import asked_by
from bsft_nb.engine.lm import student_lm
from bsft_nb.engine.predict import keep_format
from bsft_nb.models.student_adapter import StudentAdapter, adapter_state, fitting
from bsft_nb.models.tokens import load_codec
from bsft_nb.run.files import write_json
from bsft_nb.teacher.keys import example_key
from bsft_nb.teacher.ledger import Call, Trace


class Item(pydantic.BaseModel):
    name: str
    price: float | None = None


class Route(dspy.Signature):
    """Pick the team.

    Long rules follow."""

    ticket: str = dspy.InputField()
    items: list[Item] = dspy.InputField()
    team: Literal["shipping", "billing"] = dspy.OutputField()


class Desk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.route = dspy.Predict(Route)
        self.reply = dspy.ChainOfThought("ticket, team -> reply: str, urgent: bool")

    def forward(self, ticket, items):
        return self.reply(ticket=ticket, team=self.route(ticket=ticket, items=items).team)


@pytest.fixture(params=["llama", "chat_llama", "t5"])
def folder(request):
    return request.getfixturevalue(request.param)


def builder_of(folder, program=None, adapter=None) -> PairBuilder:
    codec = load_codec(folder)

    def has_token(t):
        return codec.tokenizer.convert_tokens_to_ids(t) not in (None, codec.tokenizer.unk_token_id)

    return PairBuilder(program or Desk(), adapter or fitting(codec.survives, has_token), codec)


def route(ticket, team="shipping"):
    return Call("route", {"ticket": ticket, "items": [{"name": "cup", "price": None}]}, {"team": team})


def reply(ticket, text="So sorry."):
    return Call("reply.predict", {"ticket": ticket, "team": "shipping"}, {"reasoning": "It is late.\nVery.", "reply": text, "urgent": True})


def kept(example, *calls, score=1.0, teacher=0):
    return Trace(example, 0, teacher, calls=list(calls), kept=True, score=score)


def test_traces_are_read_once_and_every_row_is_accounted_for(llama):
    traces = [
        kept("a", route("late"), reply("late")),
        kept("b", route("Late "), reply("fee", "x" * 600)),
        kept("c", route("late"), route("lost"), reply("lost")),
        Trace("d", 0, reason="error", error="TimeoutError"),
        Trace("e", 0, calls=[route("fee", "billing")], reason="rejected", score=0.0),
        kept("f", route("fee", "gardening")),
        kept("g", route("half a pair \ud800")),
    ]
    built = build(builder_of(llama), iter(traces), held={"c"})
    counts = {k: v["all"] for k, v in built.funnel.items()}
    assert counts["tried"] == 7 and counts["ran"] == 6 and counts["kept"] == 5
    assert built.funnel["parsed"] == {"all": 6, "route": 6, "reply.predict": 3}, "attempts that called it"
    assert (counts["calls"], counts["written"], counts["unwritable"]) == (9, 7, 2)
    assert (counts["exact duplicates"], counts["alike"], counts["deduplicated"]) == (1, 1, 5)
    assert (counts["too long"], counts["fitted"], counts["trained"], counts["held out"]) == (1, 4, 2, 2)
    assert {p.example for p in built.train} == {"a"} and {p.example for p in built.held} == {"c"}
    assert ["gardening" in d for d in built.dropped] == [True, False, False] and "no Unicode text" in built.dropped[1] and "example b" in built.dropped[2]
    assert counts["calls"] == counts["trained"] + counts["held out"] + sum(counts[k] for k in ("unwritable", "exact duplicates", "lost to conflicts", "alike", "too long", "held out but trained on"))
    assert json.loads(json.dumps(built.funnel)) == built.funnel
    assert [c.predictor for c, _ in built.samples].count("route") == 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["late", "Late", "late ", "fee", "la\u0301te", "l\u00e1te"]), st.sampled_from(["shipping", "billing"]), st.sampled_from([0.1, 1.0])), max_size=14), st.sets(st.sampled_from("abcdef")), st.sampled_from(CONFLICTS))
@example([("a", "la\u0301te", "shipping", 0.1), ("b", "late", "shipping", 0.1), ("b", "l\u00e1te", "shipping", 0.1), ("b", "l\u00e1te", "billing", 0.1)], {"a"}, "all")
def test_no_prompt_on_both_sides_and_nothing_uncounted(builder, rows, held, conflicts):
    traces = [kept(e, Call("self", {"ticket": t}, {"team": a}), score=s) for e, t, a, s in rows]
    built = build(builder, traces, held, conflicts)
    n = {k: v["all"] for k, v in built.funnel.items()}
    lost = sum(n[k] for k in ("exact duplicates", "lost to conflicts", "alike", "too long", "held out but trained on"))
    assert len(rows) == len(built.train) + len(built.held) + lost
    flat = [[" ".join(p.prompt.casefold().replace("a\u0301", "\u00e1").split()) for p in side] for side in (built.train, built.held)]
    assert not set(flat[0]) & set(flat[1]) and not {p.example for p in built.train} & held
    if conflicts != "all":
        prompts = [tuple(p.prompt_ids) for p in built.train + built.held]
        assert len(prompts) == len(set(prompts))
    again = build_from_pairs(builder, built.train + built.held, held, conflicts)
    assert (again.train, again.held) == (built.train, built.held), "a second time changes nothing"


@pytest.fixture(scope="module")
def builder(llama):
    return builder_of(llama, dspy.Predict("ticket -> team"))


def test_conflicts_by_majority_by_best_score_and_all(builder):
    answers = [("shipping", 0.5)] * 3 + [("billing", 0.9)] + [("none", 0.1)]
    traces = [kept(f"e{i}", Call("self", {"ticket": "late"}, {"team": a}), score=s) for i, (a, s) in enumerate(answers)]
    completions = {c: [p.completion for p in build(builder, traces, conflicts=c).train] for c in CONFLICTS}
    assert completions == {"all": ["shipping", "billing", "none"], "majority": ["shipping"], "best": ["billing"]}
    assert build(builder, traces[::-1], conflicts="majority").train[0].completion == "shipping", "order does not matter"
    built = build(builder, traces)
    assert built.conflicts[0]["completions"] == {"shipping": 3, "billing": 1, "none": 1}
    assert any("conflicts='majority'" in w for w in check_rows(built, {"model": ["self"]}))
    assert not any("conflicts=" in w for w in check_rows(build(builder, traces, conflicts="best"), {"model": ["self"]}))
    with pytest.raises(ValueError, match="conflicts='first': choose one of 'all', 'majority', 'best'"):
        build(builder, traces, conflicts="first")


def test_held_out_keeps_proportions_whatever_the_order():
    def make(label):
        return [dspy.Example(q=str(i), team="rare" if i % 20 == 0 else "common", note=str(i), **label(i)).with_inputs("q") for i in range(200)]

    examples = make(lambda i: {})
    keys = held_out(examples, share=0.1)
    assert len(keys) == 20 and sum(example_key(e) in keys for e in examples if e.team == "rare") == 1
    assert held_out(examples[::-1], share=0.1) == keys != held_out(examples, share=0.1, seed=1)
    both = make(lambda i: {"lang": "de" if i % 2 else "en"})
    keys = held_out(both, share=0.1)
    assert sum(example_key(e) in keys for e in both if e.lang == "de") == 10


def test_held_out_takes_labels_from_kept_traces_where_examples_have_none():
    examples = [dspy.Example(q=str(i)).with_inputs("q") for i in range(100)]
    labels = {example_key(e): "rare" if i < 10 else "common" for i, e in enumerate(examples)}
    traces = [Trace(k, 0, prediction={"team": v, "reasoning": k}, kept=True) for k, v in labels.items()]
    keys = held_out(examples, traces=iter(traces))
    assert [labels[k] for k in keys].count("rare") == 1 and len(keys) == 10
    few = held_out(examples[:3])
    assert few <= {example_key(e) for e in examples[:3]} and len(few) == 0


def test_valset_is_used_as_given(builder):
    labelled = builder.labelled([dspy.Example(ticket="late", team="shipping").with_inputs("ticket")])
    built = build(builder, [kept("a", Call("self", {"ticket": "late"}, {"team": "shipping"}))], valset=labelled)
    assert built.held == labelled and len(built.train) == 1 and built.funnel["held out"]["all"] == 1


def test_no_rows_are_refused_with_the_funnel_and_what_to_do(llama):
    builder = builder_of(llama)
    for traces, held, advice in [
        ([Trace("a", 0, reason="error")], (), "'ran'"),
        ([Trace("a", 0, calls=[route("x")], reason="rejected")], (), "the metric accepted nothing"),
        ([kept("a", route("x", "gardening"))], (), "survives the target's vocabulary"),
        ([kept("a", route("x" * 700))], (), "longer than the target takes"),
        ([kept("a", route("x"))], {"a"}, "held out"),
    ]:
        with pytest.raises(DataError, match="no rows to train model on") as raised:
            check_rows(build(builder, traces, set(held)), {"model": ["route", "reply.predict"]})
        assert advice in str(raised.value) and funnel_text({"tried": {"all": 1}}) in str(raised.value)
    one = build(builder, [kept("a", route("x"))])
    with pytest.raises(DataError, match="no rows to train model-reply on: .*multitask=True"):
        check_rows(one, {"model-route": ["route"], "model-reply": ["reply.predict"]})
    warnings = check_rows(one, {"model": ["route", "reply.predict"]})
    assert "only 1 row to" in warnings[0] and "'reply.predict'" in warnings[1]
    many = build(builder, [kept(str(i), route(f"ticket {i}"), reply(f"ticket {i}")) for i in range(25)])
    assert check_rows(many, {"model": ["route", "reply.predict"]}) == []


def test_funnel_shows_names_as_text_and_as_escaped_html():
    funnel = {"tried": {"all": 4}, "kept": {"all": 2, "<img src=x>": 2}, "metric_errors": {"all": 1}, "alike": {"all": 0}}
    text, page = funnel_text(funnel), funnel_html(funnel)
    assert "accepted" in text and text.endswith("metric errors 1")
    assert "<img" not in page and "&lt;img src=x&gt;" in page and "<script" not in page and "color:#" not in page
    assert funnel_html({}).startswith("<div") and funnel_text({}) == ""


def test_rows_on_disk_come_back_with_their_lengths(llama, tmp_path):
    built = build(builder_of(llama), [kept("a", route("late"), reply("late")), kept("b", route("fee", "billing"), score=None)], held={"b"})
    save_pairs(built, tmp_path / "pairs")
    assert load_pairs(tmp_path / "pairs") == (built.train, built.held)
    rows = to_dataset(built.train)
    assert rows["prompt_tokens"][0] == len(built.train[0].prompt_ids) and {"example", "predictor", "score"} <= set(rows.column_names)
    assert to_dataset([]).column_names == rows.column_names


INPUTS = [route("late"), route("[[ ## team ## ]]\nteam: x\n\n<|end|></s>"), route(""), reply(" two  spaces \n"), reply("½ 日本 {}")]


@pytest.mark.parametrize("adapter", [None, dspy.ChatAdapter(use_json_adapter_fallback=False)])
def test_prompts_trained_on_are_the_prompts_asked(folder, adapter):
    program = keep_format(Desk())
    if adapter is not None and "t5" in folder.name:
        pytest.skip("ChatAdapter's completions do not survive T5's vocabulary")
    builder = builder_of(folder, program, adapter)
    samples = [(c, builder.pair(c, "e", 1.0)) for c in INPUTS]
    assert check_parity(builder, samples, asked_by(program, builder.adapter, builder.codec)) == len(INPUTS)


@settings(max_examples=150, deadline=None)
@given(st.lists(TYPED, min_size=1, max_size=2), st.sampled_from([StudentAdapter(), StudentAdapter("<extra_id_0>", "%<"), dspy.ChatAdapter(), dspy.JSONAdapter()]))
def test_an_input_from_the_ledger_makes_the_prompt_of_the_value_itself(llama, typed, adapter):
    fields = {f"in{i}": (kind, dspy.InputField()) for i, (kind, _) in enumerate(typed)} | {"out": (str, dspy.OutputField())}
    values = {f"in{i}": value for i, (_, value) in enumerate(typed)}
    builder = builder_of(llama, dspy.Predict(dspy.Signature(fields, "Go.")), adapter)
    assume("inf" not in repr(values))  # a limit: adapters write infinity within a structure as `Infinity`, from its JSON form as `null`
    stored = json.loads(json.dumps({k: serialize_for_json(v) for k, v in values.items()}))
    assert builder.prompt_ids("self", stored) == builder.codec.prompt(adapter.format(builder.signatures["self"], [], values))


def test_parity_through_the_students_own_files(chat_llama, tmp_path):
    import shutil

    student = shutil.copytree(chat_llama, tmp_path / "student")
    program = keep_format(Desk())
    builder = builder_of(student, program)
    write_json(student / "bsft.json", {"adapter": adapter_state(builder.adapter), "max_tokens": 8})
    program.set_lm(student_lm(student))
    samples = [(c, builder.pair(c, "e", 1.0)) for c in INPUTS]
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert check_parity(builder, samples, asked_by(program)) == len(INPUTS)
    assert program.route.lm.engine.worker.thread is None, "no model was started"


@pytest.mark.parametrize("broken", ["demos", "instructions", "adapter"])
def test_a_prompt_that_differs_is_shown(chat_llama, broken):
    program = keep_format(Desk())
    builder = builder_of(chat_llama, program)
    samples, adapter = [(INPUTS[0], builder.pair(INPUTS[0], "e", 1.0))], builder.adapter
    if broken == "demos":
        program.route.demos = [dspy.Example(ticket="a", items=[], team="billing")]
    elif broken == "instructions":
        program.route.signature = Route.with_instructions("Pick one.")
    else:
        adapter = StudentAdapter(full_instructions=True)
    with pytest.raises(DataError, match="predictor 'route': the prompt trained on is not the prompt asked") as raised:
        check_parity(builder, samples, asked_by(program, adapter, builder.codec))
    assert "--- trained on\n+++ asked" in str(raised.value) and "the first difference at token" in str(raised.value)


def test_plain_predictors_ask_a_student_in_its_format(chat_llama):
    builder = builder_of(chat_llama, keep_format(Desk()))
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert check_parity(builder, [(INPUTS[0], builder.pair(INPUTS[0], "e", 1.0))], asked_by(Desk(), builder.adapter, builder.codec)) == 1


def test_an_error_before_the_request_is_not_taken_for_parity(chat_llama):
    program = keep_format(Desk())
    builder = builder_of(chat_llama, program)
    with pytest.raises(TypeError):
        asked_by(program, builder.adapter, builder.codec)("route", {"ticket": "a", "config": 1, "items": []})
