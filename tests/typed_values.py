"""Hypothesis strategies: awkward texts, and values of the types that people give to output fields."""
import datetime
import enum
from typing import Any, Literal, Optional

import dspy
import pydantic
from hypothesis import strategies as st


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
