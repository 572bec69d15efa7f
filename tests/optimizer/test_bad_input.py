"""Bad input is refused before the first teacher call, by an error that names the value, the reason and the fix."""
import json
import os
import re
from pathlib import Path
from typing import Literal

import dspy
import pytest

from bsft_nb import BootstrapFinetune, StudentAdapter
from bsft_nb.data.pairs import DataError
from bsft_nb.lessons import save_llama, teacher_lm
from bsft_nb.models.weights import TargetError
from bsft_nb.run.files import read_json


class Sort(dspy.Signature):
    """Say what kind of thing is named."""

    words: str = dspy.InputField()
    kind: str = dspy.OutputField()


class SortTwice(dspy.Module):
    def __init__(self, check="words, kind -> sure: bool"):
        super().__init__()
        self.sort, self.check = dspy.Predict(Sort), dspy.Predict(check)

    def forward(self, words):
        return self.check(words=words, kind=self.sort(words=words).kind)


def examples(*words):
    return [dspy.Example(words=w, kind="plant").with_inputs("words") for w in words]


@pytest.fixture
def teacher():
    return teacher_lm(lambda text: {"kind": "plant"})


@pytest.fixture
def assert_refused(teacher, llama):
    "Checks that `compile` with these arguments, the others being good, raises before anything is done; gives the message."

    def check(error, message, metric=None, settings=None, way="compile", **changed):
        good = {"student": dspy.Predict(Sort), "trainset": examples("rose", "oak", "fir"), "target": llama, "display": False}
        with pytest.raises(error, match=message) as raised:
            tp = BootstrapFinetune(metric, dict(lm=teacher) if settings is None else settings)
            getattr(tp, way)(**(good | changed))
        assert teacher.engine.calls == 0
        assert not Path(os.environ["BSFT_HOME"]).exists(), "a run folder was made"
        return str(raised.value)

    return check


def test_the_good_arguments_reach_the_teacher(teacher, llama):
    tp = BootstrapFinetune(lambda e, p, trace: False, dict(lm=teacher))
    with pytest.raises(DataError):
        tp.compile(dspy.Predict(Sort), trainset=examples("rose", "oak", "fir"), target=llama, display=False)
    assert teacher.engine.calls == 3


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"trainset": []}, ValueError, "trainset is empty: give at least one dspy.Example"),
        ({"trainset": iter([])}, (TypeError, ValueError), "trainset"),
        ({"trainset": None}, TypeError, "trainset must be a list of dspy.Example, not NoneType"),
        ({"trainset": [*examples("rose"), {"words": "oak"}]}, TypeError, r"trainset\[1\] is a dict.*with_inputs"),
        ({"trainset": [*examples("rose"), dspy.Example(words="oak", kind="x")]}, ValueError, r"trainset\[1\] .*with_inputs.*\['kind', 'words'\]"),
        ({"valset": [dspy.Example(words="oak", kind="x")]}, ValueError, r"valset\[0\] .*with_inputs"),
    ],
    ids=["empty", "empty iterator", "None", "not an Example", "no inputs", "valset without inputs"],
)
def test_examples(assert_refused, changed, error, message):
    assert_refused(error, message, **changed)


def test_generator_is_refused_or_used_whole(teacher, llama):
    tp = BootstrapFinetune(lambda e, p, trace: False, dict(lm=teacher))
    with pytest.raises((TypeError, DataError)) as raised:
        tp.compile(dspy.Predict(Sort), trainset=(e for e in examples("rose", "oak", "fir")), target=llama, display=False)
    assert teacher.engine.calls == 3 or "trainset must be a list" in str(raised.value)


@pytest.mark.parametrize(
    ("student", "error", "message"),
    [
        (SortTwice, TypeError, r"student must be a dspy.Module, not the class SortTwice: call it, SortTwice\(\)"),
        (lambda words: "plant", TypeError, "student must be a dspy.Module, not <function"),
        ("words -> kind", TypeError, "student must be a dspy.Module, not 'words -> kind'"),
        (None, TypeError, "student must be a dspy.Module, not None"),
        (dspy.Module(), ValueError, "student Module has no predictors.*give it a dspy.Predict"),
        (dspy.Predict("photo: dspy.Image -> kind"), ValueError, "predictor 'self': field 'photo' is a Image"),
    ],
    ids=["class", "function", "text", "None", "no predictors", "image"],
)
def test_student(assert_refused, student, error, message):
    assert_refused(error, message, student=student)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (SortTwice, TypeError, r"teacher must be a dspy.Module, not the class SortTwice: call it, SortTwice\(\)"),
        (dspy.Predict(Sort), ValueError, "predictor 'sort' is only in the student.*same predictors"),
        (SortTwice("words, kind -> doubt: bool"), ValueError, "predictor 'check': field '(sure|doubt)'"),
        (SortTwice("words, kind -> sure: float"), ValueError, "predictor 'check': field 'sure' .*type"),
        (SortTwice("words -> kind, sure: bool"), ValueError, "predictor 'check': field 'kind' .*role"),
        ([SortTwice(), SortTwice("words -> sure: bool")], ValueError, "predictor 'check': field 'kind' is missing"),
    ],
    ids=["class", "other predictors", "other field", "other type", "other role", "second of two"],
)
def test_teacher(assert_refused, other, error, message):
    assert_refused(error, message, student=SortTwice(), teacher=other)


def test_extra_predictor_of_teacher(assert_refused):
    assert_refused(ValueError, "predictor '(self|sort)' is only in the (student|teacher)", teacher=SortTwice())


def test_teacher_is_student(assert_refused):
    student = SortTwice()
    assert_refused(ValueError, "teacher is the student itself: give another", student=student, teacher=student)


def half_set(lm):
    student = SortTwice()
    student.sort.lm = lm
    return student


@pytest.mark.parametrize(
    ("student", "settings", "error", "message"),
    [
        (lambda lm: SortTwice(), {}, ValueError, r"teacher has no LM for 'sort', 'check': give teacher_settings=dict\(lm="),
        (half_set, {}, ValueError, "teacher has no LM for 'check': give"),
        (half_set, {"lm": "openai/gpt-5"}, TypeError, "lm is 'openai/gpt-5'; it must be a dspy.LM"),
    ],
    ids=["none", "for one of two", "a name"],
)
def test_teacher_lm(assert_refused, teacher, student, settings, error, message):
    assert_refused(error, message, student=student(teacher), settings=settings)


def keyword_only(example, prediction, trace=None, *, threshold):
    return True


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("exact", "metric='exact' is not callable: give a function"),
        (0.5, "metric=0.5 is not callable: give a function"),
        (lambda example, prediction: True, r"metric '<lambda>' cannot be called as metric\(example, prediction, trace\).*too many.*Write def metric"),
        (lambda a, b, c, d: True, "metric '<lambda>' cannot be called as .*'d'.*Write def metric"),
        (keyword_only, "metric 'keyword_only' cannot be called as .*'threshold'.*Write def metric"),
    ],
    ids=["text", "number", "two arguments", "four arguments", "a keyword more"],
)
def test_metric(assert_refused, metric, message):
    assert_refused(TypeError, message, metric=metric)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["bsize", "accumsteps", "epochs"])
def test_counts(assert_refused, name, value):
    assert_refused(ValueError, re.escape(f"{name}={value!r}: it must be a whole number of at least 1"), **{name: value})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "x"])
@pytest.mark.parametrize("way", ["compile", "start"])
def test_lr(assert_refused, way, value):
    assert_refused(ValueError, re.escape(f"lr={value!r}: the learning rate must be a finite number above 0, such as"), way=way, lr=value)


def test_bf16(assert_refused, monkeypatch):
    monkeypatch.setattr("bsft_nb.training.jobs.has_bf16", lambda device: False)
    assert_refused(ValueError, r"bf16=True: this device \(\w+\) has no bfloat16.*Leave bf16=False", bf16=True)


@pytest.mark.parametrize(
    ("target", "tried"),
    [
        ("no/such-model", ["the folder", "the local Hub cache", "the Hub"]),
        ("no such model!", ["the folder", "the local Hub cache", "the Hub"]),
        (Path("/nowhere/model"), ["the folder /nowhere/model"]),
        (Path("nowhere.gguf"), [str(Path("nowhere.gguf").absolute())]),
    ],
)
def test_unknown_target(assert_refused, target, tried):
    said = assert_refused(TargetError, f"target '{target}'", target=target)
    assert [t for t in tried if t not in said] == []
    assert re.search("Give a Hub id .*a folder .*a .gguf file", said)


def folder(path, **files):
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def test_target_that_needs_remote_code(assert_refused, tmp_path):
    ran = tmp_path / "ran"
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "modeling_mine.C", "AutoModelForCausalLM": "modeling_mine.M"}}
    code = f"open({str(ran)!r}, 'w')\nC = M = None"
    target = folder(tmp_path / "mine", config__json=json.dumps(config), modeling_mine__py=code, model__safetensors="")
    assert_refused(TargetError, f"{target}.*model type 'mine' needs remote code, which is never run. Choose", target=target)
    assert not ran.exists()


def test_target_with_pickles_only(assert_refused, tmp_path):
    target = folder(tmp_path / "old", config__json='{"model_type": "llama"}', pytorch_model__bin="x")
    assert_refused(TargetError, rf"{target}.*only in pickle files \(pytorch_model.bin\).*Convert it once with save_pretrained", target=target)


@pytest.mark.parametrize(
    ("files", "reason"),
    [({}, "no readable config.json"), ({"config__json": "{"}, "no readable config.json"), ({"config__json": '{"model_type": "llama"}'}, "no \\*.safetensors")],
    ids=["empty", "torn config", "no weights"],
)
def test_incomplete_target(assert_refused, tmp_path, files, reason):
    target = folder(tmp_path / "part", **files)
    assert_refused(TargetError, f"{target}.*{reason}", target=target)


@pytest.mark.parametrize(
    ("trainset", "valset", "message"),
    [
        (["rose", "oak " * 200, "fir"], [], r"\b1 .* limit of 512 tokens \(\D*1\D+'self': 8\d\d tokens\)\. Shorten"),
        (["oak " * 200] * 7, [], r"\b7 .* limit of 512 tokens \((\D*[0-4]\D+'self': 8\d\d tokens){5}\)\. Shorten"),
        (["rose", "fir"], ["elm", "oak " * 200], r"\b1 .* limit of 512 tokens \(valset\D*1\D+'self': 8\d\d tokens\)\. Shorten"),
    ],
    ids=["one", "many", "in valset"],
)
def test_long_prompts(assert_refused, trainset, valset, message):
    assert_refused(DataError, message, trainset=examples(*trainset), valset=examples(*valset))


@pytest.fixture(scope="module")
def lower_case_llama(tmp_path_factory):
    "A model whose tokenizer knows lower-case letters and the space, and nothing else."
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = save_llama(tmp_path_factory.mktemp("lower"))
    config = path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 4096}))
    vocab = ["</s>", "<unk>", " ", *"abcdefghijklmnopqrstuvwxyz"]
    tok = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocab)}, unk_token="<unk>"))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", unk_token="<unk>").save_pretrained(path)
    return path


class SortLoud(dspy.Signature):
    words: str = dspy.InputField()
    kind: Literal["PLANT", "TOOL"] = dspy.OutputField()


@pytest.mark.parametrize(("adapter", "signature"), [(None, Sort), (None, SortLoud), (StudentAdapter(), SortLoud), (dspy.ChatAdapter(), Sort)], ids=["text", "literal", "given StudentAdapter", "given ChatAdapter"])
def test_vocabulary_that_no_completion_survives(assert_refused, lower_case_llama, adapter, signature):
    said = assert_refused(ValueError, "choose a target with a larger vocabulary", target=lower_case_llama, adapter=adapter, student=dspy.Predict(signature))
    assert f"target {str(lower_case_llama)!r}" in said


def test_nothing_accepted(llama):
    lm = teacher_lm(lambda text: {"weight": "heavy"} if "rose" in text else {"kind": "stone"})
    tp = BootstrapFinetune(lambda example, prediction, trace: example.kind == prediction.kind, dict(lm=lm))
    with pytest.raises(DataError) as raised:
        tp.compile(dspy.Predict(Sort), trainset=examples("oak", "rose", "fir", "elm"), target=llama, display=False)
    said = str(raised.value)
    assert re.search(r"no teacher attempt was accepted \(tried 4, ran 4, parsed 3, accepted 0", said)
    assert re.search(r"(?s)'words': 'oak'.*'kind': 'stone'.*\(rejected, score 0.0\)", said)
    assert re.search(r"'words': 'rose'", said)
    assert "heavy" in said, "what the teacher said when it could not be parsed"
    assert str(tp.run.path / "traces.jsonl") in said
    attempts = tp.run.traces
    assert [a.reason for a in attempts] == ["rejected", "unparsed", "rejected", "rejected"]
    assert [a.inputs["words"] for a in attempts] == ["oak", "rose", "fir", "elm"]
    assert all(a.prediction == {"kind": "stone"} and a.score == 0 for a in attempts if a.reason == "rejected")
    assert len((tp.run.path / "traces.jsonl").read_text().splitlines()) == 4
    assert read_json(tp.run.path / "run.json")["status"] == tp.run.status == "failed"


def test_raising_metric_is_counted_and_shown(teacher, llama):
    def metric(example, prediction, trace=None):
        return example.nothing

    tp = BootstrapFinetune(metric, dict(lm=teacher))
    with pytest.raises(DataError, match=r"(?s)tried 2, ran 2, parsed 2, accepted 0, metric errors 2.*nothing.*metric error"):
        tp.compile(dspy.Predict(Sort), trainset=examples("oak", "fir"), target=llama, display=False)
    assert [t.reason for t in tp.run.traces] == ["metric error"] * 2
    assert tp.run.path / "traces.jsonl" in tp.run.path.iterdir()
