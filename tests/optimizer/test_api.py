"""The reference's API, and its own example."""
import dataclasses
import inspect
import json
import shutil
from pathlib import Path

import dspy
import pytest

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.lessons import save_t5, teacher_lm
from bsft_nb.optimizer.options import COMPILE, TABLE, TITLES, markdown_table, options_of
from bsft_nb.training.jobs import TrainConfig

EMPTY = inspect.Parameter.empty


def parameters(function):
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()]


def test_constructor_begins_as_in_the_reference():
    reference = [("metric", None), ("teacher_settings", {}), ("multitask", True)]
    found = parameters(BootstrapFinetune)
    assert [(n, d) for n, _, d in found[:3]] == reference
    assert all(kind == "POSITIONAL_OR_KEYWORD" for _, kind, _ in found[:3])
    assert all(kind == "KEYWORD_ONLY" for _, kind, _ in found[3:])


def test_compile_begins_as_in_the_reference():
    reference = [("self", EMPTY), ("student", EMPTY), ("teacher", None), ("trainset", EMPTY), ("valset", None), ("target", "t5-large"), ("bsize", 12), ("accumsteps", 1), ("lr", 5e-5), ("epochs", 1), ("bf16", False)]
    found = parameters(BootstrapFinetune.compile)
    assert [(n, d) for n, _, d in found[: len(reference)]] == reference
    assert [kind for _, kind, _ in found[:2]] == ["POSITIONAL_OR_KEYWORD"] * 2
    assert all(kind == "KEYWORD_ONLY" for _, kind, _ in found[2:])


@pytest.mark.parametrize(("function", "of", "more", "first"), [(BootstrapFinetune.__init__, "constructor", "dspy", 3), (BootstrapFinetune.compile, "compile", "none", 1)])
def test_a_signature_is_what_the_table_of_options_says(function, of, more, first):
    "The same names in the same order, the same defaults; all are keyword-only but the first ones."
    itself, *found = parameters(function)
    assert itself[0] == "self"
    kinds = ["POSITIONAL_OR_KEYWORD"] * first + ["KEYWORD_ONLY"] * (len(found) - first)
    assert found == [(o.name, kind, o.default) for o, kind in zip(options_of(of) + options_of(more), kinds, strict=True)]
    assert [o.source for o in options_of(of)] == sorted((o.source for o in options_of(of)), reverse=True), "the reference's come first"


def test_the_fields_of_a_training_are_what_the_table_of_options_says():
    found = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    own = [o.name for o in options_of("training")]
    assert [n for n in found if n in own] == own, "the same names in the same order"
    assert set(found) - set(own) <= {o.name for o in options_of("compile")}, "the others are arguments of compile"
    assert found == {n: TABLE[n].default for n in found}


@pytest.mark.parametrize("value", [0, -1, 1.5, True, float("nan"), float("inf"), "x", None, [1]], ids=repr)
def test_what_the_table_refuses_a_training_refuses_alike(value):
    for f in dataclasses.fields(TrainConfig):
        check = TABLE[f.name].kind.check
        try:
            refused = check and check(f.name, value)
        except ValueError as e:
            refused = str(e)
        if refused and TABLE[f.name].kind.form != "choice":
            with pytest.raises(ValueError) as raised:
                TrainConfig(**{f.name: value})
            assert str(raised.value) == refused


def test_the_reference_is_in_the_table():
    assert [o.name for o in COMPILE] == ["student", "teacher", "trainset", "valset", "target", "bsize", "accumsteps", "lr", "epochs", "bf16"]


def test_the_page_of_arguments_shows_the_table():
    page = json.loads((Path(__file__).parents[2] / "nbs/reference/arguments.ipynb").read_text(encoding="utf-8"))
    shown = ["".join(o["data"]["text/markdown"]) for c in page["cells"] for o in c.get("outputs", ()) if "text/markdown" in o.get("data", {})]
    assert shown == [markdown_table(of) for of in TITLES], "run nbs/reference/arguments.ipynb again"


def test_is_a_teleprompter_that_bootstraps_few_shot():
    tp = BootstrapFinetune()
    assert isinstance(tp, dspy.teleprompt.Teleprompter)
    assert isinstance(tp.teleprompter, dspy.BootstrapFewShot)


class Passages(dspy.Module):
    "Any local retriever in the place of `dspy.Retrieve`."

    def forward(self, question):
        return dspy.Prediction(passages=[f"A passage on {question.split()[-1]}"])


class RAG(dspy.Module):
    def __init__(self):
        super().__init__()
        self.retrieve = Passages()
        self.generate_answer = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question):
        context = self.retrieve(question).passages
        return dspy.Prediction(context=context, answer=self.generate_answer(context=context, question=question).answer)


def test_the_reference_example_runs(tmp_path, monkeypatch):
    """A Hub id resolves from a cache laid out as the Hub's client lays it out."""
    snapshot = tmp_path / "hub" / "models--google--flan-t5-base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_t5(snapshot, ["a passage on rivers context question reasoning answer blue because it is said"] * 20)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    trainset = [dspy.Example(question=f"What of {w}", answer="blue").with_inputs("question") for w in ("seas", "skies", "lakes", "rivers")]
    teacher = teacher_lm(lambda text: {"reasoning": "It is said.", "answer": "blue"})

    #Define teleprompter
    teleprompter = BootstrapFinetune(teacher_settings=dict({'lm': teacher}))

    # Compile!
    compiled_rag = teleprompter.compile(student=RAG(), trainset=trainset, target='google/flan-t5-base')

    assert isinstance(compiled_rag, RAG) and teacher.engine.calls == 4
    assert compiled_rag.generate_answer.predict.lm.engine.target.encoder_decoder
    pairs = compiled_rag.generate_answer.predict.lm.engine.adapter
    assert pairs.separator == "<extra_id_0>", "newlines do not survive T5's vocabulary"
    shutil.rmtree(tmp_path / "hub")


def test_a_program_moves_over_from_dspy_by_its_import():
    "The arguments of DSPy's own, all by name: each is taken, and none is lost without a word."
    from dspy.teleprompt.bootstrap_finetune import BootstrapFinetune as Dspys

    theirs = [n for n, *_ in parameters(Dspys.__init__)[1:]]
    assert set(theirs) <= {n for n, *_ in parameters(BootstrapFinetune.__init__)}
    assert set(theirs) == {"metric", "multitask", "train_kwargs", "adapter", "exclude_demos", "num_threads"}, "DSPy has other arguments now"


def test_names_that_users_type():
    assert {"BootstrapFinetune", "StudentAdapter", "load", "local_lm"} <= set(bsft_nb.__all__)
