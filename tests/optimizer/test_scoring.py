"""A student that cannot be asked has no score: that is told, and nothing is trained. One that says nothing usable scores 0."""
import itertools
import json

import dspy
import pytest
from dspy.lm15 import Message, Response, ServerError, Usage

from bsft_nb import BootstrapFinetune, StudentAdapter
from bsft_nb.engine.lm import StudentEngine
from bsft_nb.lessons import teacher_lm
from bsft_nb.optimizer.scoring import Scoring
from bsft_nb.run.folder import RunFolder


def examples(n=6):
    return [dspy.Example(words=f"w{i}", kind="plant").with_inputs("words") for i in range(n)]


def same(example, prediction, trace=None):
    return example.kind == prediction.kind


class Strict(dspy.Module):
    "Does something with the answer that not every answer is good for."

    def __init__(self):
        super().__init__()
        self.sort = dspy.Predict("words -> kind")

    def forward(self, words):
        return dspy.Prediction(kind=json.loads(self.sort(words=words).kind))


def says(text):
    def complete(self, request):
        return Response(id=None, model=request.model, message=Message.assistant(text), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))

    return complete


def fails(*errors):
    turn = itertools.cycle(errors)

    def complete(self, request):
        raise next(turn)

    return complete


def scoring(tmp_path, program=None, adapter=None):
    return Scoring(program or dspy.Predict("words -> kind"), examples(), same, adapter or StudentAdapter(), RunFolder(tmp_path / "run"), max_tokens=4, num_threads=1)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([OSError("the weights are gone")], "6 of 6 answers of the untuned student raised: .*the weights are gone"),
        ([ValueError("scores are not numbers")], "6 of 6 answers .*scores are not numbers"),
        pytest.param([ServerError("overloaded")], "6 of 6 answers .*overloaded", marks=pytest.mark.slow),
        ([RuntimeError("size 4 and 8"), RuntimeError("size 4 and 8"), KeyError("layer")], r"6 of 6 answers .*size 4 and 8 \(and 1 other error\)"),
    ],
    ids=["files", "numbers", "server", "mixed"],
)
def test_an_engine_that_always_fails_is_that_error(tmp_path, llama, monkeypatch, errors, told):
    monkeypatch.setattr(StudentEngine, "complete", fails(*errors))
    asked = scoring(tmp_path)
    with pytest.raises(RuntimeError, match=told):
        asked.ask("untuned", {"self": llama})
    assert asked.ask("checkpoint", {"self": llama}) == 0, "a checkpoint that fails is a bad one"
    assert "6 of 6 answers of the tuned student raised" in asked.folder.log.read()[-1].data["note"]


@pytest.mark.parametrize("text", ["", "\ud7ff", "[[ ## nothing ## ]]", "plant plant"])
def test_answers_that_cannot_be_used_score_0(tmp_path, llama, monkeypatch, text):
    monkeypatch.setattr(StudentEngine, "complete", says(text))
    for program, adapter in ((None, None), (None, dspy.ChatAdapter(use_json_adapter_fallback=False)), (Strict(), None)):
        asked = scoring(tmp_path, program, adapter)
        assert asked.ask("untuned", {n: llama for n, _ in asked.program.named_predictors()}) == 0


def test_an_error_of_the_program_is_told_and_scores_0(tmp_path, llama, monkeypatch):
    monkeypatch.setattr(StudentEngine, "complete", says("not JSON"))
    asked = scoring(tmp_path, Strict())
    assert asked.ask("untuned", {"sort": llama}) == 0
    assert "6 of 6 answers of the untuned student raised: JSONDecodeError" in asked.folder.log.read()[-1].data["note"]


def test_nothing_is_trained_with_such_an_engine_and_the_teacher_is_paid_once(llama, monkeypatch):
    lm = teacher_lm(lambda text: {"kind": "plant"})
    monkeypatch.setattr(StudentEngine, "complete", fails(OSError("the weights are gone")))
    tp = BootstrapFinetune(same, dict(lm=lm))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the weights are gone"):
            tp.compile(dspy.Predict("words -> kind"), trainset=examples(20), target=llama, display=False)
        assert lm.engine.calls == 20 and tp.run.status == "failed" and not [e for e in tp.run.events if e.kind == "train"]
