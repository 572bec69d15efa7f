"""What a person gives besides examples: edited traces and pairs, another metric, a cap; and what a run hands out."""
import json
from pathlib import Path

import dspy
import pytest
from sorting import Sort, examples, knows, same_kind

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.data.exchange import export_pairs
from bsft_nb.data.pairs import DataError
from bsft_nb.lessons import teacher_lm
from bsft_nb.notebook.data_panel import DataPanel

QUICK = dict(bsize=8, lr=1e-3, display=False)


@pytest.fixture(scope="module")
def finished(llama, tmp_path_factory):
    "A finished run with its LM; its folder outlives the tests' own homes."
    lm = teacher_lm(knows)
    tp = BootstrapFinetune(same_kind, dict(lm=lm))
    trainset = examples(40, 0)
    compiled = tp.compile(dspy.Predict(Sort), trainset=trainset, target=llama, run_dir=tmp_path_factory.mktemp("given") / "run", **QUICK)
    return tp, lm, trainset, compiled


def rewritten(path: Path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r) + "\n" for r in map(change, rows)))


def test_edited_traces_take_the_place_of_the_teacher(finished, llama, tmp_path):
    tp, lm, trainset, _ = finished
    path, asked = tmp_path / "traces.jsonl", lm.engine.calls
    n = tp.run.export(path, what="traces")

    def owl(row):
        right = "owl" in row["inputs"]["words"]
        for call in row["calls"]:
            call["outputs"] = {"kind": "animal"} if right else call["outputs"]
        return {**row, "kept": row["kept"] or right}

    rewritten(path, owl)
    again = BootstrapFinetune(same_kind)
    again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, traces=path, **QUICK)
    assert lm.engine.calls == asked and len(again.run.traces) == n
    assert again.run.funnel()["kept"]["all"] == n > tp.run.funnel()["kept"]["all"]
    rewritten(path, lambda row: {**row, "calls": [{**c, "predictor": "nobody"} for c in row["calls"]]})
    with pytest.raises(DataError, match="line 1: unknown predictor 'nobody'"):
        again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, traces=path, **QUICK)


def test_edited_pairs_from_a_file_or_a_panel_are_what_is_trained_on(finished, llama, tmp_path):
    tp, _, trainset, _ = finished
    tp.run.export(tmp_path / "pairs.jsonl", form="prompt-completion")
    rewritten(tmp_path / "pairs.jsonl", lambda row: {**row, "completion": "tool"})
    again = BootstrapFinetune(same_kind)
    again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, pairs=tmp_path / "pairs.jsonl", **QUICK)
    assert set(again.run.pairs["train"]["completion"]) == {"tool"}
    panel = DataPanel.of(tp.run)
    panel.drop(0)
    again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, pairs=panel.pairs, **QUICK)
    assert again.run.pairs["train"].num_rows <= len(panel.pairs) < tp.run.pairs["train"].num_rows
    export_pairs(panel.pairs, tmp_path / "again.jsonl")
    rewritten(tmp_path / "again.jsonl", lambda row: {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": "stone"}]})
    with pytest.raises(DataError, match="line 1: the completion 'stone' does not parse"):
        again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, pairs=tmp_path / "again.jsonl", **QUICK)
    with pytest.raises(ValueError, match="a list must hold"):
        again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, pairs=["tool"], **QUICK)


@pytest.mark.parametrize(("what", "form"), [("pairs", "openai"), ("pairs", "prompt-completion"), ("traces", "openai")])
def test_an_export_that_nobody_edited_is_the_same_data_again(finished, llama, tmp_path, what, form):
    tp, lm, trainset, _ = finished
    path, asked = tmp_path / "given.jsonl", lm.engine.calls
    tp.run.export(path, what=what, form=form)
    assert sum(json.loads(line).get("split") == "held_out" for line in path.read_text().splitlines()) >= tp.run.pairs["held_out"].num_rows > 0
    again = BootstrapFinetune(same_kind)
    again.compile(dspy.Predict(Sort), trainset=trainset, target=llama, **{what: path}, **QUICK, seed=5)  # by which other examples would be held out
    assert lm.engine.calls == asked
    for split in ("train", "held_out"):
        assert [sorted(r["example"] for r in run.pairs[split]) for run in (tp.run, again.run)][0] == sorted(r["example"] for r in again.run.pairs[split])


def test_another_metric_asks_nobody_and_a_cap_counts_calls(llama):
    lm, trainset = teacher_lm(knows), examples(30, 0)
    n = len({e.words for e in trainset})
    capped = BootstrapFinetune(same_kind, dict(lm=lm), max_teacher_calls=12)
    plan = capped.preflight(dspy.Predict(Sort), trainset=trainset, target=llama)
    assert (plan.calls, plan.calls_known) == (len(trainset), 0) and "max_teacher_calls=12" in plan.warnings[0]
    capped.compile(dspy.Predict(Sort), trainset=trainset, target=llama, **QUICK)
    assert lm.engine.calls == 12
    tp = BootstrapFinetune(same_kind, dict(lm=lm))
    assert tp.preflight(dspy.Predict(Sort), trainset=trainset, target=llama).calls_known == 12
    tp.compile(dspy.Predict(Sort), trainset=trainset, target=llama, **QUICK)
    assert lm.engine.calls == n
    strict = BootstrapFinetune(lambda e, p, trace=None: same_kind(e, p) and p.kind != "tool", dict(lm=lm))
    strict.compile(dspy.Predict(Sort), trainset=trainset, target=llama, **QUICK)
    assert lm.engine.calls == n, "a changed metric scores again what is in the ledger"
    assert {t.prediction["kind"] for t in strict.run.traces if t.kept} == {"plant", "animal"}


def test_a_run_is_judged_reported_and_attached(finished):
    tp, lm, trainset, compiled = finished
    table = tp.run.compare(compiled, trainset[:12], same_kind, teacher=dspy.Predict(Sort), teacher_settings=dict(lm=lm))
    assert table.columns == ["teacher", "tuned", "untuned"] and len(table) == 12
    verdict = tp.run.verdict()
    assert verdict.n == 12 and "12 examples are too few" in verdict.text()
    page = tp.run.report().read_text()
    assert "<script" not in page and tp.run.id in page
    run = bsft_nb.attach(tp.run.path)
    assert run.status == "finished" and run.scores == tp.run.scores and set(run.scores) == {"teacher", "tuned", "untuned"}
    assert run.result(program=dspy.Predict(Sort))(words="a red cat").kind == compiled(words="a red cat").kind


def test_a_used_run_dir_is_begun_anew(finished, llama, tmp_path):
    _, lm, trainset, _ = finished
    tp = BootstrapFinetune(same_kind, dict(lm=lm))
    for lr in (1e-3, 2e-3):
        tp.compile(dspy.Predict(Sort), trainset=trainset, target=llama, run_dir=tmp_path / "mine", **{**QUICK, "lr": lr})
        assert tp.run.info["config"]["lr"] == lr
    steps = [e.data["step"] for e in tp.run.events if e.kind == "checkpoint"]
    assert len(steps) == 2, "the second training did not take the first one's checkpoint"


@pytest.mark.parametrize("ask", ["table", "verdict"])
def test_the_call_that_a_run_without_a_table_names_works_as_typed(finished, llama, ask):
    tp, _, trainset, _ = finished
    (tp.run.path / "compare.jsonl").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="nothing was compared yet") as raised:
        tp.run.verdict() if ask == "verdict" else tp.run.table
    call = str(raised.value).partition("program: ")[2]
    made = eval(call, {"bsft_nb": bsft_nb, "program": dspy.Predict(Sort), "examples": trainset[:4], "metric": same_kind})
    assert len(made) == 4 and len(tp.run.table) == 4 and tp.run.verdict().n == 0
