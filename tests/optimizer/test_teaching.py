"Levers of the teacher and the training through a whole compile: what is learned, in which folder, and what is asked again."
import json

import dspy
import pytest

from bsft_nb import BootstrapFinetune
from bsft_nb.data.builder import held_out, load_pairs
from bsft_nb.lessons import SHOUTS, Shout, is_loud, shouting_teacher, teacher_lm
from bsft_nb.results.table import open_table
from bsft_nb.run.events import Stopped
from bsft_nb.teacher.keys import example_key

FAST = dict(display=False, launch="inline")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BSFT_HOME", str(tmp_path / ".bsft"))
    return tmp_path


def test_distinct_answers_share_the_weight_of_their_example(home, llama):
    turns = {}

    def answer(text):
        word = text.rpartition("word ## ]]\n")[2].split()[0]
        turns[word] = turns.get(word, 0) + 1
        return {"loud": f"{word.upper()}{'!' * turns[word]}" if word in ("cat", "dog") else word.upper()}

    lm = teacher_lm(answer)
    loud = lambda example, prediction, trace=None: prediction.loud.startswith(example.loud)  # noqa: E731
    tp = BootstrapFinetune(loud, dict(lm=lm), max_rounds=2, accepted=2, max_cost=1, price=(1, 1))
    tp.compile(Shout(), trainset=SHOUTS, valset=[], target=llama, per_example="equal", **FAST)
    train, _ = load_pairs(tp.run.path / "pairs")
    weights = {p.completion.strip(): p.weight for p in train}
    assert len(train) == 12 and lm.engine.calls == 20 and sum(p.weight for p in train) == pytest.approx(12)
    assert weights["CAT!"] == weights["CAT!!"] == pytest.approx(0.6) and weights["SUN"] == pytest.approx(1.2)
    assert tp.run.info["per_example"] == "equal" and tp.run.config()["accepted"] == 2
    assert sum(t.cost for t in tp.run.traces) > 0


def test_agreement_needs_no_labels_and_scores_no_student(home, llama):
    trainset = [dspy.Example(word=e.word).with_inputs("word") for e in SHOUTS]
    tp = BootstrapFinetune("agreement", dict(lm=shouting_teacher()), max_rounds=3)
    tp.compile(Shout(), trainset=trainset, target=llama, **FAST)
    assert tp.run.funnel()["kept"]["all"] == 10 and tp.run.funnel()["spare"]["all"] == 20 and tp.run.scores == {}
    assert json.loads(json.dumps(tp.run.config()))["metric"] == "agreement"


def test_a_sweep_pays_the_teacher_once_and_trains_each_setting_once(home, llama):
    (held,) = held_out(SHOUTS, seed=0)
    shy = next(e.word for e in SHOUTS if example_key(e) == held)  # the teacher gets the one wrong that is held out
    lm = teacher_lm(lambda text: {"loud": shy if f"\n{shy}\n" in text.rpartition("word ## ]]")[2] else text.rpartition("word ## ]]\n")[2].split()[0].upper()})
    tp = BootstrapFinetune(is_loud, dict(lm=lm))
    trained = dict(trainset=SHOUTS, target=llama, **FAST)
    made = tp.sweep(Shout(), lr=[1e-3, 1e-5], seeds=[0, 1], **trained)
    runs = sorted((home / ".bsft" / "runs").iterdir())
    assert lm.engine.calls == 10 and len(runs) == 4 and len(made.rows) == 2 and all(len(r.runs) == 2 for r in made.rows)
    tables = [{row["example"] for row in map(json.loads, (r / "compare.jsonl").read_text().splitlines()) if "example" in row} for r in runs]
    assert all(t == {held} for t in tables), "another seed holds out the same examples"
    assert made.program.say.lm and tp.run.id == made.run.id and "95% interval" in str(made)
    before = {r.name: (r / "model" / "model.safetensors").stat().st_mtime_ns for r in runs}
    again = tp.sweep(Shout(), lr=[1e-3, 1e-5], seeds=[0, 1], **trained)
    assert {r.name: (r / "model" / "model.safetensors").stat().st_mtime_ns for r in sorted((home / ".bsft" / "runs").iterdir())} == before
    assert again.rows == made.rows and lm.engine.calls == 10
    assert open_table(made.run.folder).figures("teacher").size


def test_a_sweep_is_checked_before_anything_is_paid(home, llama):
    lm = shouting_teacher()
    tp = BootstrapFinetune(is_loud, dict(lm=lm))
    for wrong, said in ((dict(lr=[1e-3, -1]), "lr=-1"), (dict(lr=1e-3), "takes a list"), ({}, "at least one list"), (dict(seeds=[0], seed=1), "seeds= and seed="), (dict(seeds=[0], run_dir="x"), "run_dir=")):
        with pytest.raises(ValueError, match=said):
            tp.sweep(Shout(), trainset=SHOUTS, target=llama, display=False, **wrong)
    assert lm.engine.calls == 0 and not (home / ".bsft").exists()


def test_settings_that_fit_are_those_of_the_run(home, llama):
    tp = BootstrapFinetune(is_loud, dict(lm=shouting_teacher()))
    plan = tp.preflight(Shout(), trainset=SHOUTS, target=llama, lr="auto", epochs="auto", bsize="auto")
    assert plan.train_rows == 10
    tp.compile(Shout(), trainset=SHOUTS, target=llama, lr="auto", bsize="auto", **FAST)
    assert tp.run.info["config"]["lr"] == 3e-4 and tp.run.info["config"]["bsize"] == 4 and tp.run.info["config"]["epochs"] == 1


def test_least_sure_first_survives_a_stop_in_either_half_and_asks_nobody_twice(home, llama):
    trainset = [dspy.Example(word=f"{a}{b}", loud=f"{a}{b}".upper()).with_inputs("word") for a in "abcdefgh" for b in "xyz"]
    asked, stop_at = [], {3, 10}

    def answer(text):
        asked.append(text.rpartition("word ## ]]\n")[2].split()[0])
        if len(asked) in stop_at:
            tp.run.stop()
        return {"loud": asked[-1].upper()}

    tp = BootstrapFinetune(is_loud, dict(lm=teacher_lm(answer)), max_teacher_calls=10, order="uncertain", num_threads=1)
    call = dict(trainset=trainset, valset=[], target=llama, run_dir=home / "run", launch="inline", display=False)
    for _ in stop_at:
        with pytest.raises(Stopped):
            tp.compile(Shout(), **call)
    ranked = json.loads((home / "run" / "order.json").read_text())
    tp.compile(Shout(), **call)
    assert len(asked) == len(set(asked)) and json.loads((home / "run" / "order.json").read_text()) == ranked
    assert [t.inputs["word"] for t in tp.run.traces][: len(asked)] == asked, "in that order, whatever came between"
    tp.compile(Shout(), **call)
    assert sorted(asked) == sorted(e.word for e in trainset), "the next compile goes on with the rest"
    with pytest.raises(ValueError, match="nobody can tell how sure a provider's model is"):
        tp.compile(Shout(), trainset=trainset, target=teacher_lm(answer), display=False)
