"""What a signature, or a list of predictors, makes impossible is told before anybody is asked."""
import datetime
import decimal
import enum
from typing import Annotated, Literal, Optional

import dspy
import pydantic
import pytest
from dspy.lm15 import Message, Response, Usage

from bsft_nb import BootstrapFinetune
from bsft_nb.lessons import teacher_lm
from bsft_nb.models.signatures import TAKEN, bad_names, lossy, unreadable
from bsft_nb.models.student_adapter import StudentAdapter, roundtrip
from bsft_nb.models.values import read_value, write_value
from bsft_nb.optimizer.selection import slugs


class Echo:
    "Keeps what it is asked, answers `value` in ChatAdapter's format."

    def __init__(self, field):
        self.field, self.asked = field, []

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        self.asked.append(request.messages[-1].text)
        text = f"[[ ## {self.field} ## ]]\nvalue\n\n[[ ## completed ## ]]"
        return Response(id=None, model=request.model, message=Message.assistant(text), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))


OWN = {n for c in (dspy.Prediction, dspy.Signature, dspy.Predict, dspy.Example) for n in dir(c) if n.isidentifier() and n[0] != "_" and not n.startswith("model_")}
NAMES = sorted(OWN | TAKEN | {"args", "kwargs", "trace", "prediction", "callbacks", "question", "context", "history", "usage", "stage", "fn", "call_id", "type", "json"})


def _works(name, side):
    "Does a field of this name reach the prompt, or come out as an attribute?"
    other = "other"
    fields = {name: (str, dspy.InputField()), other: (str, dspy.OutputField())} if side == "input" else {other: (str, dspy.InputField()), name: (str, dspy.OutputField())}
    engine = Echo(other if side == "input" else name)
    try:
        predict = dspy.Predict(dspy.Signature(fields, "x"))
        predict.lm = dspy.LM("a/b", engine=engine, cache=False, num_retries=0)
        said = {name if side == "input" else other: "hello"}
        prediction = predict(**dspy.Example(**said).with_inputs(*said).inputs())
        return "hello" in engine.asked[0] and (side == "input" or getattr(prediction, name) == "value")
    except Exception:
        return False


@pytest.mark.filterwarnings("ignore:Field name")
@pytest.mark.parametrize("side", ["input", "output"])
def test_the_names_that_are_refused_are_those_that_dspy_cannot_use(side):
    wrong = []
    for name in NAMES:
        fields = {name: (str, dspy.InputField() if side == "input" else dspy.OutputField()), "other": (str, dspy.OutputField() if side == "input" else dspy.InputField())}
        try:
            signature = dspy.Signature(fields, "x")
        except Exception:  # DSPy itself says no
            continue
        if _works(name, side) == bool(bad_names(signature)):
            wrong.append((name, bad_names(signature)))
    assert not wrong


@pytest.mark.parametrize("name", ["the answer", "answer-2", "answer.text", "a:b"])
def test_output_names_that_no_adapter_reads(name):
    signature = dspy.Signature({"q": (str, dspy.InputField()), name: (str, dspy.OutputField())}, "x")
    assert name in bad_names(signature)[0] and "rename it" in bad_names(signature)[0]
    assert not bad_names(dspy.Signature({"the question": (str, dspy.InputField()), "größe": (str, dspy.OutputField())}, "x"))


class ByAlias(pydantic.BaseModel):
    full: str = pydantic.Field(alias="Full name")
    when: datetime.datetime = pydantic.Field(validation_alias="at", serialization_alias="time")
    more: list["ByAlias"] = pydantic.Field([], validation_alias=pydantic.AliasChoices("m", "n"))


class Excluded(pydantic.BaseModel):
    kept: str
    hidden: int = pydantic.Field(0, exclude=True)


class Needed(pydantic.BaseModel):
    hidden: int = pydantic.Field(exclude=True)


class Secret(pydantic.BaseModel):
    pin: pydantic.SecretStr | None = None


class Upper(pydantic.BaseModel):
    name: str

    @pydantic.field_serializer("name")
    def shout(self, value):
        return value.upper()


class Wrapped(pydantic.BaseModel):
    name: str

    @pydantic.model_serializer
    def inside(self):
        return {"wrapped": self.name}


class Strict(pydantic.BaseModel, extra="forbid"):
    a: int

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.a


@pytest.mark.parametrize("kind", [Excluded, list[Excluded], Needed, Secret, Optional[Secret], Upper, dict[str, Upper], Wrapped, Strict, pydantic.SecretStr, Annotated[int, pydantic.PlainSerializer(lambda v: v + 1)]])
def test_types_that_lose_what_was_said_are_found(kind):
    assert lossy(kind) is not None


class Plain(pydantic.BaseModel):
    a: int | None = None
    b: Literal["x", "y"] = "x"
    c: dict[str, list[float]] = {}
    d: decimal.Decimal = pydantic.Field(decimal.Decimal(1), ge=0, le=9)
    e: tuple[int, str] = (1, "")
    f: Optional["Plain"] = None
    g: bytes = b""
    h: datetime.timedelta = datetime.timedelta(0)
    i: set[int] = set()


class Even(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    def even(cls, n):
        if n % 2:
            raise RuntimeError("odd")
        return n


@pytest.mark.parametrize("kind", [str, int, bool, Plain, list[Plain], ByAlias, Even, dict, list, object, dspy.Reasoning, dspy.ToolCalls, dspy.Code, Annotated[str, pydantic.Field(pattern="x+")], datetime.date, complex])
def test_types_that_keep_it_are_let_in(kind):
    assert lossy(kind) is None


@pytest.mark.parametrize("given", [{"Full name": "a", "at": "2024-01-02T00:00:00"}, {"full": "a", "when": "2024-01-02T00:00:00", "more": [{"Full name": "b", "at": "2024-01-02T00:00:00"}]}])
def test_a_model_is_read_by_names_and_by_aliases(given):
    value = pydantic.TypeAdapter(ByAlias).validate_python(given, by_alias=True, by_name=True)
    assert read_value(write_value(value, ByAlias), ByAlias) == value
    signature = dspy.Signature({"q": (str, dspy.InputField()), "who": (ByAlias, dspy.OutputField()), "n": (int, dspy.OutputField())}, "x")
    assert roundtrip(StudentAdapter(), signature, {"who": value, "n": 3}) is None


class Number(enum.IntEnum):
    ONE, TWO = 1, 2


class Mixed(enum.Enum):
    ONE, TWO = 1.5, "x"


class Bits(enum.Flag):
    ONE, TWO = 1, 2


class Text(str, enum.Enum):
    ONE, TWO = "one", "two"


@pytest.mark.parametrize(("kind", "adapter", "fine"), [
    (Number, dspy.ChatAdapter(), False), (Mixed, dspy.XMLAdapter(), False), (Bits, dspy.ChatAdapter(), False), (Number, dspy.JSONAdapter(), True),
    (Text, dspy.ChatAdapter(), True), (Text, dspy.XMLAdapter(), True), (Literal[1, 2], dspy.ChatAdapter(), True), (list[Number], dspy.ChatAdapter(), True),
])
def test_values_that_the_teachers_adapter_cannot_read_are_found(kind, adapter, fine):
    assert (not unreadable(dspy.Signature({"q": (str, dspy.InputField()), "a": (kind, dspy.OutputField())}, "x"), adapter)) == fine


BAD = {
    "demos": dspy.Signature("demos, question -> answer"),
    "config": dspy.Signature("config -> answer"),
    "toDict": dspy.Signature("question -> toDict"),
    "answer": dspy.Signature({"question": (str, dspy.InputField()), "answer": (Excluded, dspy.OutputField())}, "x"),
    "number": dspy.Signature({"question": (str, dspy.InputField()), "number": (Number, dspy.OutputField())}, "x"),
}


@pytest.mark.parametrize("field", BAD)
def test_nobody_is_asked_with_a_signature_that_cannot_work(llama, field):
    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.inner = dspy.Predict(BAD[field])

        def forward(self, question):
            return self.inner(question=question)

    lm = teacher_lm(lambda text: {"answer": "x"})
    rows = [dspy.Example(question=f"q{i}").with_inputs("question") for i in range(4)]
    with pytest.raises(ValueError, match=f"predictor 'inner': (input|output) '{field}'"):
        BootstrapFinetune(None, dict(lm=lm)).compile(Program(), trainset=rows, target=llama, display=False)
    assert lm.engine.calls == 0


LISTS = [
    ["a.b", "a_b", "a-b"], ["Answer", "answer", "ANSWER"], ["x" * 300, "x" * 300 + "y"], ["steps[0]", "steps[1]", "steps['0']"],
    ["é", "e\u0301", "ﬁ", "fi"], ["ß", "ss", "SS"], ["...", "[]", "-"], ["self"], ["日" * 90, "日" * 91],
]


@pytest.mark.parametrize("names", LISTS)
def test_each_predictor_has_a_folder_of_its_own_on_any_file_system(tmp_path, names):
    import unicodedata

    made = slugs(names)
    assert list(made) == names and made == slugs(names) and set(made.items()) == set(slugs(names[::-1]).items())
    assert len({unicodedata.normalize("NFKD", s).casefold() for s in made.values()}) == len(names)
    for s in made.values():
        (tmp_path / f"model-{s}").mkdir()
        assert len(f".model-{s}.tmpabcdefgh".encode()) < 255 and "/" not in s


def test_a_name_without_a_clash_keeps_its_folder():
    assert slugs(["generate.answer", "rank[0].predict"]) == {"generate.answer": "generate-answer", "rank[0].predict": "rank-0--predict"}


@pytest.mark.parametrize(("valset", "held"), [(None, 2), ([], 0), (["q0", "q1", "q2"], 3)])
def test_an_empty_valset_holds_nothing_out(llama, valset, held):
    rows = [dspy.Example(question=f"q{i}", answer="yes").with_inputs("question") for i in range(20)]
    lm = teacher_lm(lambda text: {"answer": "yes"})
    tp = BootstrapFinetune(lambda e, p, trace=None: True, dict(lm=lm))
    given = None if valset is None else [e for e in rows if e.question in valset]
    compiled = tp.compile(dspy.Predict("question -> answer"), trainset=rows, valset=given, target=llama, bsize=4, launch="inline", display=False)
    told = tp.run.funnel()
    assert len(tp.run.pairs["held_out"]) == held if held else len(tp.run.pairs.get("held_out", [])) == 0
    assert len(tp.run.pairs["train"]) == (18 if valset is None else 20), told
    assert compiled.lm.engine.path.exists() and ("tuned" in tp.run.scores) == bool(held)
