"""Over generated typed values: what is written as a completion and tokenised comes back equal, in the causal and the T5 format."""
import math
from typing import Any

import dspy
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typed_values import TYPED, Colour, Leaf

from bsft_nb.models.student_adapter import StudentAdapter, fitting, roundtrip
from bsft_nb.models.tokens import load_codec
from bsft_nb.models.values import read_value, write_value

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


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
