"""Over generated typed values: what is written as a completion and tokenised comes back equal, in the causal and the T5 format."""
import datetime
import enum
import math
from typing import Any, Literal, Optional

import dspy
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsft_nb.formats import StudentAdapter, fitting, read_value, roundtrip, write_value
from bsft_nb.tokens import load_codec

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Colour(enum.Enum):
    RED = "red"
    NONE = "null"


class Leaf(pydantic.BaseModel):
    name: str
    size: float = 0.5
    tags: list[str] = []


class Tree(pydantic.BaseModel):
    leaf: Leaf
    others: dict[str, Optional[Leaf]] = {}
    answer: Literal["a", 1] = 1


AWKWARD = ["", " ", "\n", "null", "None", "true", "12", "-0.0", '"', '"a"', "'", "{}", "[1]", "{", "\\", "\\n", "%0A", "%", "a  b", " a ", "\ta", "a\r\nb", "\r", "\x00", "\x1f", "\x85", "\u2028x",
           "<extra_id_0>", "</s>", "<pad>", "<unk>", "<|end|>", "second:", "second: 1", "a\nsecond: b", "\nfirst: x", "\\second: y", "a\n\\\\second: z", "first:", "[[ ## second ## ]]", "½", "e\u0301", "ﬁ", "日本", "🙂", "\u200d", "\ufeff"]
TEXTS = st.one_of(st.sampled_from(AWKWARD), st.text(max_size=12), st.lists(st.sampled_from([*AWKWARD, "word"]), max_size=4).map("".join), st.lists(st.sampled_from(["a", "second: b", "first: c", ""]), max_size=4).map("\n".join))
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4)
LEAVES = st.builds(Leaf, name=TEXTS, size=FLOATS, tags=st.lists(TEXTS, max_size=3))
TREES = st.builds(Tree, leaf=LEAVES, others=st.dictionaries(TEXTS, st.none() | LEAVES, max_size=2), answer=st.sampled_from(["a", 1]))
KINDS = [
    (str, TEXTS), (int, st.integers()), (float, FLOATS), (bool, st.booleans()), (dspy.Reasoning, TEXTS.map(lambda t: dspy.Reasoning(content=t))),
    (Literal["low", "high", "", " x", "null", "second: b"], st.sampled_from(["low", "high", "", " x", "null", "second: b"])), (Literal[1, "1", True, "True"], st.sampled_from([1, "1", True, "True"])), (Colour, st.sampled_from(Colour)),
    (Optional[str], st.none() | TEXTS), (Optional[int], st.none() | st.integers()), (Optional[bool], st.none() | st.booleans()), (Optional[Leaf], st.none() | LEAVES), (int | str, st.integers() | TEXTS), (float | None, st.none() | FLOATS),
    (list[str], st.lists(TEXTS, max_size=4)), (list[int], st.lists(st.integers(), max_size=4)), (list[float], st.lists(FLOATS, max_size=3)), (list[Leaf], st.lists(LEAVES, max_size=2)), (list[list[str]], st.lists(st.lists(TEXTS, max_size=2), max_size=2)),
    (dict[str, int], st.dictionaries(TEXTS, st.integers(), max_size=3)), (dict[int, Optional[str]], st.dictionaries(st.integers(), st.none() | TEXTS, max_size=3)), (dict[str, list[float]], st.dictionaries(TEXTS, st.lists(FLOATS, max_size=2), max_size=2)),
    (tuple[int, str], st.tuples(st.integers(), TEXTS)), (Leaf, LEAVES), (Tree, TREES), (set[str], st.sets(TEXTS, max_size=4)), (Any, JSON), (datetime.date, st.dates()), (datetime.date | str, st.dates() | st.dates().map(str) | TEXTS), (datetime.datetime, st.datetimes()),
    (int | float, st.integers() | FLOATS), (bool | int | str, st.booleans() | st.integers() | TEXTS), (str | list[str], TEXTS | st.lists(TEXTS, max_size=3)), (str | Leaf, TEXTS | LEAVES), (Literal["a", "null"] | None, st.sampled_from(["a", "null", None])),
    (list[Literal["a", 1]], st.lists(st.sampled_from(["a", 1]), max_size=3)), (list[Colour], st.lists(st.sampled_from(Colour), max_size=3)), (Optional[Colour], st.none() | st.sampled_from(Colour)), (list[Any], st.lists(JSON, max_size=3)), (dict[str, Any], st.dictionaries(TEXTS, JSON, max_size=3)),
]
TYPED = st.sampled_from(KINDS).flatmap(lambda kind: kind[1].map(lambda value: (kind[0], value)))


def same(a, b) -> bool:
    "Equal, and of the same types all the way down."
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, pydantic.BaseModel):
        return type(a) is type(b) and same(vars(a), vars(b))
    return type(a) is type(b) and a == b


def signature_of(kinds) -> type[dspy.Signature]:
    names = ["first", "second", "third"]
    fields = {"question": (str, dspy.InputField())} | {n: (k, dspy.OutputField()) for n, k in zip(names, kinds)}
    return dspy.Signature(fields, "Answer.")


@SETTINGS
@given(TYPED)
def test_value_written_then_read_is_the_same(typed):
    kind, value = typed
    assert same(read_value(write_value(value, kind), kind), value), write_value(value, kind)


@pytest.fixture(scope="module", params=["llama", "chat_llama", "t5"])
def codec(request):
    return load_codec(request.getfixturevalue(request.param))


def adapter_for(codec, outputs, kinds) -> StudentAdapter:
    "As compile chooses it: from what was kept of the teacher."
    texts = [write_value(v, k) for v, k in zip(outputs.values(), kinds)]
    return fitting(codec.survives, lambda t: codec.tokenizer.convert_tokens_to_ids(t) not in (None, codec.tokenizer.unk_token_id), texts)


@SETTINGS
@given(st.lists(TYPED, min_size=1, max_size=3))
def test_outputs_formatted_tokenised_then_parsed_are_the_same(codec, typed):
    kinds = [k for k, _ in typed]
    signature = signature_of(kinds)
    outputs = dict(zip(signature.output_fields, [v for _, v in typed]))
    adapter = adapter_for(codec, outputs, kinds)
    text = adapter.format_assistant_message_content(signature, outputs)
    assert roundtrip(adapter, signature, outputs, lambda t: codec.text(codec.completion(t))) is None, "a good row would be dropped"
    back = adapter.parse(signature, codec.text(codec.completion(text)))
    assert list(back) == list(outputs)
    for name in outputs:
        assert same(back[name], outputs[name]), (text, back)


LOST = [(Colour.RED, Colour | str), (math.inf, Any), ({"a": [math.nan]}, dict[str, Any]), (Leaf(name="x"), Any), ("\ud800", str)]


@pytest.mark.parametrize(("value", "kind"), LOST)
def test_what_has_no_exact_way_back_is_seen(codec, value, kind):
    signature = signature_of([kind])
    outputs = {"first": value}
    adapter = adapter_for(codec, {"first": ""}, [str])
    assert roundtrip(adapter, signature, outputs, lambda t: codec.text(codec.completion(t)))


def test_nan_comes_back(codec):
    signature = signature_of([float, list[float]])
    outputs = {"first": math.nan, "second": [math.nan, math.inf]}
    assert roundtrip(adapter_for(codec, outputs, [float, list[float]]), signature, outputs, lambda t: codec.text(codec.completion(t))) is None


def test_a_set_is_written_in_one_order():
    assert write_value({"b", "a", "c"}, set[str]) == '["a", "b", "c"]'
