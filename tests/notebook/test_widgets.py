"""The panels without a browser: what they say, and what a message from the browser does."""
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dspy
import pytest
from hostile import HOSTILE, faults
from traitlets import TraitError

from bsft_nb.data.funnel import funnel_html
from bsft_nb.data.pairs import Pair
from bsft_nb.lessons import teacher_lm
from bsft_nb.notebook.compare_html import detail_html, rows_html, slices_html
from bsft_nb.notebook.compare_panel import ComparePanel
from bsft_nb.notebook.compile_panel import CompilePanel
from bsft_nb.notebook.data_html import Threshold, pair_html, traces_html
from bsft_nb.notebook.data_panel import DataPanel
from bsft_nb.notebook.progress_html import live_charts, panel_html
from bsft_nb.notebook.progress_panel import ProgressPanel, follow_progress
from bsft_nb.optimizer.job_file import read_job
from bsft_nb.optimizer.run import Run
from bsft_nb.optimizer.teleprompter import BootstrapFinetune
from bsft_nb.results.evaluate import Answer
from bsft_nb.results.table import Slice, write_table
from bsft_nb.results.table_file import compare_rows
from bsft_nb.run.events import Event, Tail
from bsft_nb.run.folder import RunFolder
from bsft_nb.run.frontend import BSFT, frontend
from bsft_nb.run.progress import reduce_all
from bsft_nb.run.views import TextProgress, progress_for


def from_browser(widget, **state):
    "The message that a browser sends when a person has changed a control."
    widget.comm.handle_msg({"content": {"data": {"method": "update", "state": state}}, "buffers": []})


def click(button):
    assert not button.disabled
    button.comm.handle_msg({"content": {"data": {"method": "custom", "content": {"event": "click"}}}, "buffers": []})


def labelled(widget, name: str):
    "The control below `widget` with that description."
    found = [w for w in (widget, *getattr(widget, "children", ())) if getattr(w, "description", None) == name]
    return found[0] if found else next((w for c in getattr(widget, "children", ()) if (w := labelled(c, name))), None)


def until(true, seconds=180):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "home" / "runs" / "demo-1")
    made.update(status="running", created="2026-01-31 10:00:00", target="t")
    return made


class Place:
    "A display: keeps what it is updated with."

    def __init__(self):
        self.shown = []

    def update(self, html):
        self.shown.append(html.data)


def log_of_a_run(text="note", n=60):
    return [
        Event("run", 0, {"id": text, "note": text}),
        Event("bootstrap", 1, {"examples": n}),
        *(Event("trace", 2, {"kept": i % 2 == 0, "reason": "" if i % 2 == 0 else text, "again": False, "score": 1.0, "latency": 0.5}) for i in range(n)),
        Event("data", 3, {"note": text, "funnel": {}}),
        *(Event("train", 4 + i, {"model": text, "step": i + 1, "steps": n, "loss": 2 - i / n, "memory_mb": 100.0}) for i in range(n)),
        Event("score", 80, {"which": "tuned", "score": 0.5, "n": 3, "model": text}),
        Event("warn", 81, {"note": text}),
        Event("error", 82, {"type": text, "message": text}),
    ]


# Is anybody there?


@pytest.mark.parametrize(
    ("stdin", "metadata", "session", "where"),
    [(True, {"cellId": "a"}, None, "notebook"), (True, {}, "x.ipynb", "notebook"), (False, {"cellId": "a"}, "x.ipynb", "kernel"), (True, {}, None, "kernel")],
)
def test_a_frontend_is_told_from_a_batch_run(monkeypatch, stdin, metadata, session, where):
    import IPython

    request = {"content": {"allow_stdin": stdin}, "metadata": metadata}
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda channel: request)))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert frontend() == where


def test_executed_without_a_frontend_a_notebook_keeps_text_and_html_only(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    code = """
from bsft_nb.run.views import progress_for
from bsft_nb.optimizer.run import Run
from bsft_nb.run.folder import RunFolder
folder = RunFolder("run")
view = progress_for(Run(folder))
folder.log.emit("run", id="run", note="run begins")
folder.log.emit("done", status="finished", note="finished in 0 s")
"""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(nb, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = [k for o in nb.cells[0].outputs for k in o.get("data", {"stream": 0})]
    assert "run begins" in nb.cells[0].outputs[0]["text"] and "text/html" in kinds
    assert not [k for k in kinds if "widget" in k] and "widgets" not in nb.metadata


def test_settings_choose_the_view(folder):
    settings = BSFT.instance()
    try:
        settings.display = "none"
        assert progress_for(Run(folder)) is None
        settings.display = "text"
        assert isinstance(progress_for(Run(folder)), TextProgress)
        with pytest.raises(TraitError):
            settings.display = "everything"
    finally:
        settings.display = "auto"


# Progress panel


def test_stop_button_writes_the_request_and_nothing_else(folder):
    panel = ProgressPanel(Run(folder))
    before = folder.info
    click(panel.stop_button)
    assert folder.stop_signal.requested and folder.info == before and panel.stop_button.disabled
    panel.close()


def test_a_blocking_cell_gets_words_instead_of_a_dead_button(folder):
    panel = ProgressPanel(Run(folder), blocking=True)
    assert panel.stop_button not in panel.widget.children
    assert "bsft stop demo-1" in panel.widget.children[-1].value
    panel.close()


def test_many_events_are_painted_once_a_second_and_the_end_stays(folder):
    panel, place, painted = ProgressPanel(Run(folder)), Place(), []
    panel.text.observe(lambda change: painted.append(time.monotonic()), "value")
    folder.log.subscribe(panel)
    panel.begin(place)
    began = time.monotonic()
    for i in range(1, 400):
        folder.log.emit("train", model="model", step=i, steps=400, loss=1 / i)
        time.sleep(0.005)
    seconds = time.monotonic() - began
    assert 1 <= len(painted) <= seconds + 1
    folder.update(status="finished")
    folder.log.emit("done", status="finished", note="finished")
    assert len(place.shown) == 1 and "at step 399" in place.shown[0] and "<img" in place.shown[0] and faults(place.shown[0]) == []
    assert panel.widget.comm is None and "widget" not in place.shown[0]
    n = len(painted)
    time.sleep(1.2)
    assert len(painted) == n


def test_a_view_follows_another_process_and_sees_it_end(folder):
    panel, place = ProgressPanel(Run(folder), poll=Tail(folder.log.path)), Place()
    panel.begin(place)
    code = "import sys; from bsft_nb.run.folder import RunFolder; f = RunFolder(sys.argv[1]); [f.log.emit('train', model='m', step=i, steps=9, loss=1.0) for i in (1, 2, 3)]; f.update(status='stopped')"
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=True)
    end = time.monotonic() + 20
    while not place.shown and time.monotonic() < end:
        time.sleep(0.1)
    assert "at step 3" in place.shown[0] and "stopped" in place.shown[0]


def test_a_run_that_has_ended_is_shown_as_it_ended(folder):
    folder.log.emit("run", id="demo-1")
    folder.log.emit("done", status="finished", note="finished")
    folder.update(status="finished")
    assert follow_progress(Run(folder)).state.status == "finished"


def test_the_panel_of_a_resumed_run_shows_all_its_sessions(folder):
    emit = folder.log.emit
    emit("run", id="demo-1", key="k")
    for step in (1, 2, 3):
        emit("train", model="m", step=step, steps=9, loss=1 / step)
    emit("done", status="stopped")
    panel = ProgressPanel(Run(folder))
    folder.log.subscribe(panel)
    emit("run", id="demo-1", key="k")
    emit("stage", stage="loading model", model="m")
    panel.paint()
    assert [s for s, _ in panel.state.curves["m"]["loss"]] == [1, 2, 3] and "<polyline" in panel.text.value
    assert "Loading model" in panel.text.value and "No news for 30 s" in panel.text.value and "loading model" in panel.said.value
    spoken = panel.said.value
    emit("stage", stage="loading model", model="m")
    panel.paint()
    assert panel.said.value == spoken, "a screen reader is not told again each second"
    panel.close()


def test_no_picture_follows_the_last_one(folder):
    panel = ProgressPanel(Run(folder))
    panel.begin(Place())
    panel.close()
    panel.text.value = "the last one"
    panel.paint()  # a tick that was under way
    assert panel.text.value == "the last one"


def test_a_painting_that_fails_does_not_reach_the_training(folder, monkeypatch, caplog):
    before = threading.active_count()
    panel = ProgressPanel(Run(folder))
    monkeypatch.setattr(panel, "paint", lambda: 1 / 0)
    panel.begin(Place())
    time.sleep(1.3)
    assert "could not be painted" in caplog.text
    panel.close()
    assert threading.active_count() <= before + 2


def test_html_of_the_whole_progress_is_small_and_static():
    state = reduce_all(log_of_a_run(n=300))
    html = panel_html(state, 100, "")
    assert len(html) < 10_000 and faults(html) == [] and len(live_charts(state)) < 10_000


# Hostile texts


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text_in_every_panel(text):
    trace = {"inputs": {text[:50]: text}, "prediction": {"kind": text}, "calls": [], "score": 0.5, "kept": False, "reason": text, "error": None}
    failed = {**trace, "prediction": {}, "error": f"Traceback\n{text}"}
    answer = {"outputs": {"kind": text}, "calls": [{"predictor": text, "inputs": {"x": text}, "outputs": {"y": text}}], "score": 0.0, "error": text, "latency": 0.1, "tokens": 3, "cost": 0.1}
    row = {"row": 0, "example": text, "run": text, "inputs": {text[:50]: text}, "labels": {"kind": text}, "columns": {"teacher": answer, "tuned": {**answer, "outputs": {"kind": text + " x"}}, "untuned": None}}
    pages = [
        panel_html(reduce_all(log_of_a_run(text, 4)), 100, ""),
        traces_html([trace, failed]) + funnel_html({text: {"all": 3, text: 3}}),
        pair_html(Pair(text, text, text, text, 1.0, [1], [2])),
        rows_html([row], ["teacher", "tuned", "untuned"]) + detail_html(row),
        slices_html([Slice(text, 3, 1, 2, 0.5, 0.5, 0.3, 0.1, 0.6)], text),
    ]
    for html in pages:
        assert [f for f in faults(html) if f not in ("<svg>",)] == [] and len(html) < 500_000


# Data panel


def traces(scores):
    calls = [{"predictor": "self", "inputs": {"word": i // 2}, "outputs": {"kind": "x"}} for i in range(len(scores))]
    return [{"inputs": {"word": i}, "prediction": {"kind": "x"}, "calls": [c], "score": s, "kept": bool(s and s > 0), "reason": "" if s and s > 0 else "rejected"} for i, (s, c) in enumerate(zip(scores, calls))]


def test_the_threshold_counts_as_a_plain_count_does():
    scores = [0.0, 0.5, 0.5, 1.0, None, float("nan"), -1.0, 0.25]
    made, all_of = Threshold(traces(scores)), traces(scores)
    for at in (-2, -1, 0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5):
        left = [t for t in all_of if t["score"] is not None and t["score"] >= at]
        assert made.leaves(at) == (len(left), len({json.dumps(t["calls"]) for t in left}))


class Letters:
    "A vocabulary of the characters below 256."

    def completion(self, text):
        return [ord(c) if ord(c) < 256 else 63 for c in text]

    def text(self, ids):
        return "".join(map(chr, ids))


def rows(n):
    return [Pair(f"e{i}", "self", f"word {i}", "kind", 1.0, [1, 2], [3]) for i in range(n)]


def test_edits_are_kept_as_typed_and_undone_one_by_one():
    panel = DataPanel(traces([1.0, 0.0, 1.0]), rows(3), {"tried": {"all": 3}}, Letters())
    editor = labelled(panel.widget, "Completion")
    from_browser(editor, value="verb")
    click(labelled(panel.widget, "Next row"))
    from_browser(editor, value="日本")
    assert "does not survive" in panel.message.value and panel.edits.state(1) == "not usable"
    click(labelled(panel.widget, "Next row"))
    click(labelled(panel.widget, "Drop this row"))
    first = replace(rows(3)[0], completion="verb", completion_ids=[118, 101, 114, 98])
    assert panel.pairs == [first, rows(3)[1]], "what cannot be written is not trained on"
    click(labelled(panel.widget, "Previous row"))
    assert editor.value == "日本", "as it was typed"
    for left in ([first, *rows(3)[1:]], [first, *rows(3)[1:]], rows(3)):
        click(labelled(panel.widget, "Undo"))
        assert panel.pairs == left
    assert panel.at == 0 and editor.value == "kind" and labelled(panel.widget, "Undo").disabled


def test_rows_are_listed_searched_filtered_and_found_from_an_attempt():
    attempts = [{**t, "example": f"e{i}"} for i, t in enumerate(traces([1.0] * 120))]
    panel = DataPanel(attempts, [replace(p, predictor="self" if i % 2 else "other") for i, p in enumerate(rows(120))], {}, Letters())
    listed = labelled(panel.widget, "Rows")
    assert len(listed.options) == 50 and "word 0" in listed.options[0][0]
    from_browser(labelled(panel.widget, "Predictor"), index=2)
    assert panel.found == list(range(1, 120, 2)) and panel.at == 1
    from_browser(labelled(panel.widget, "Search"), value="nothing of it")
    from_browser(panel.search, value="word 11")
    assert [i for _, i in listed.options] == [11, 111, 113, 115, 117, 119]
    from_browser(listed, index=2)
    assert panel.at == 113 and "word 113" in panel.shown.value
    from_browser(labelled(panel.widget, "Attempt"), value=43)
    click(labelled(panel.widget, "Its rows"))
    assert panel.found == [42] and panel.widget.selected_index == 2
    click(panel.whole)
    assert len(panel.found) == 120


def test_a_threshold_is_used_and_the_rows_are_trained_on():
    sent = []
    scored = [replace(p, score=i / 10) for i, p in enumerate(rows(10))]
    panel = DataPanel(traces([i / 10 for i in range(10)]), scored, {}, Letters(), train=lambda pairs: sent.append(pairs) or "started")
    from_browser(labelled(panel.widget, "Threshold"), value=0.7)
    click(labelled(panel.widget, "Use this threshold"))
    assert panel.pairs == scored[7:] and panel.edits.state(0) == "below the threshold"
    click(labelled(panel.widget, "Train on these rows"))
    until(lambda: "3 rows in training" in panel.message.value)
    assert sent == [scored[7:]]
    click(labelled(panel.widget, "Undo"))
    assert panel.pairs == scored


def test_slider_and_filter_answer_at_once():
    panel = DataPanel(traces([i / 100 for i in range(100)]), rows(1), {}, Letters())
    from_browser(labelled(panel.widget, "Threshold"), value=0.9)
    assert "would leave 10 of 100 attempts, 5 distinct rows" in panel.widget.children[0].children[2].value
    from_browser(labelled(panel.widget, "Show"), index=2)
    assert [panel.traces[i]["score"] for i in panel.chosen] == [0.0]


# Compare panel


@pytest.fixture
def compared(tmp_path):
    examples = [dspy.Example(word=f"w{i}", kind="a" if i % 2 else "b").with_inputs("word") for i in range(120)]
    right = [Answer({"kind": e.kind}, score=1.0, latency=0.5, tokens=9) for e in examples]
    wrong = [Answer({"kind": "c"}, score=0.0, latency=0.1, tokens=3) for _ in examples]
    columns = {"teacher": right, "tuned": [*right[:100], *wrong[100:]], "untuned": wrong}
    return write_table(tmp_path / "compare.jsonl", compare_rows(examples, columns, "run-1"))


def test_filter_search_sort_and_pages(compared):
    panel = ComparePanel(compared)
    assert len(panel.selected) == 120 and "rows 1–25 of 120" in panel.pager.where.value
    assert [label for label, _ in labelled(panel.widget, "Show").options][:2] == ["all (120)", "regressed (20)"]
    cards = panel.widget.children[0].children[0].value
    assert "100 of 120 rows right" in cards and "0.833" in cards and ">label<" in panel.shown.value.replace("<bdi>", "").replace("</bdi>", "")
    from_browser(labelled(panel.widget, "In full"), index=3)
    assert "row 4 " in panel.detail.value and "kind (label)" in panel.detail.value
    click(panel.pager.forth)
    assert panel.detail.value == "" and "w25" in panel.shown.value and "w24<" not in panel.shown.value
    from_browser(labelled(panel.widget, "Show"), index=1)
    assert panel.selected.tolist() == list(range(100, 120)) and "run-1" in panel.shown.value
    from_browser(labelled(panel.widget, "Search"), value="w119")
    assert [e.word for e in panel.examples] == ["w119"]


def test_slices_cut_the_rows(compared):
    panel = ComparePanel(compared)
    cut = labelled(panel.widget, "Slices by")
    from_browser(cut, index=[v for _, v in cut.options].index("labels.kind"))
    assert "0 : 10" in panel.sliced.value
    from_browser(labelled(panel.widget, "Only"), index=1)
    assert len(panel.selected) == 60


def test_failures_go_to_the_teacher_again(compared):
    sent = []
    panel = ComparePanel(compared, again=lambda examples: sent.extend(examples) or "started")
    from_browser(labelled(panel.widget, "Show"), index=1)
    click(labelled(panel.widget, "Send these to the teacher again"))
    until(lambda: "started" in panel.message.value)
    assert len(sent) == 20 and sent[0].word == "w100" and set(sent[0].inputs().keys()) == {"word"} and "started" in panel.message.value


def test_own_input_is_answered_by_all_and_an_error_is_an_answer(compared):
    def program(answer):
        made = dspy.Predict("word -> kind")
        made.set_lm(teacher_lm(answer))
        return made

    def fails(text):
        raise RuntimeError("no answer <b>today</b>")

    panel = ComparePanel(compared, {"teacher": program(lambda text: {"kind": "noun"}), "untuned": program(fails)})
    slow = threading.Event()
    panel.programs["tuned"] = program(lambda text: slow.wait(60) and {"kind": "verb"})
    answers, ask = panel.widget.children[1].children[-1], labelled(panel.widget, "Ask")
    from_browser(labelled(panel.widget, "word"), value="cat")
    click(ask)
    assert "asking" in answers.value and ask.disabled
    until(lambda: "noun" in answers.value and "no answer &lt;b&gt;today" in answers.value)
    assert "asking" in answers.value and "the program raised" in answers.value, "answers are shown as they arrive, failures in words"
    slow.set()
    until(lambda: not ask.disabled)
    assert "verb" in answers.value and "asking" not in answers.value


def test_a_page_of_megabyte_values_stays_small(tmp_path):
    examples = [dspy.Example(word="x" * 10**6).with_inputs("word") for _ in range(30)]
    answers = [Answer({"kind": "<b>" * 10**5, "why": "y" * 10**6}, error="z" * 10**6) for _ in examples]
    panel = ComparePanel(write_table(tmp_path / "t.jsonl", compare_rows(examples, dict.fromkeys(("teacher", "tuned", "untuned"), answers))))
    assert 10_000 < len(panel.shown.value) < 300_000


def test_an_empty_table_opens(tmp_path):
    assert "no rows" in ComparePanel(write_table(tmp_path / "t.jsonl", [])).pager.where.value


# Compile panel


def accept(example, prediction, trace=None):
    return True


def notebook_of(llama) -> dict:
    examples = [dspy.Example(word=f"word {i}").with_inputs("word") for i in range(6)]
    return {"accept": accept, "train": examples, "tagger": dspy.Predict("word -> kind"), "lm": teacher_lm(lambda text: {"kind": "noun"}), "llama": str(llama)}


def test_the_code_shown_starts_the_identical_run_and_its_result_has_a_name(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {**notebook_of(llama), "run": "the user's own"}
    panel = CompilePanel(names)
    for name, value in {"metric": "accept", "lm": "lm"}.items():
        options = [v for _, v in panel.controls[name].options]
        from_browser(panel.controls[name], index=options.index(value))
    from_browser(panel.controls["target"], value=str(llama))
    from_browser(panel.controls["bsize"], value=2)
    from_browser(panel.controls["epochs"], value=2)
    code = panel.python
    click(labelled(panel.widget, "Start"))
    assert panel.main.disabled, "a second click finds nothing to press"
    until(lambda: "finished" in panel.progress.value and panel.does == "start")
    assert panel.widget.children[-1] is panel.progress
    assert names["run"] == "the user's own" and names["run_2"] is panel.run, "nothing of the notebook's is overwritten"
    assert names["compiled_2"](word="x") is not None and "compiled_2" in panel.message.value
    calls = names["lm"].engine.calls
    exec(code.replace("epochs=2", "epochs=2, display=False"), names)
    assert names["run_2"].id == panel.run.id and names["run_2"].info["key"] == panel.run.info["key"] and names["lm"].engine.calls == calls
    panel.look()
    assert "compiled_2" not in [v for _, v in panel.controls["student"].options] and "compiled_2" in [v for _, v in panel.controls["teacher"].options]
    panel.checker.idle.wait(60)


def test_one_button_stops_and_resumes(llama):
    panel = CompilePanel(notebook_of(llama))
    panel.controls["lm"].value, panel.controls["target"].value, panel.controls["epochs"].value = "lm", str(llama), 5000
    click(panel.main)
    until(lambda: panel.does == "stop" and panel.run.folder.id)
    click(panel.main)
    assert panel.main.description == "Stopping …" and panel.main.disabled
    until(lambda: panel.does == "resume")
    panel.controls["seed"].value = 1
    assert panel.main.description == "Start", "another choice is another run"
    panel.controls["seed"].value = 0
    assert panel.main.description == "Resume" and panel.run.status == "stopped" and "as you asked" in panel.message.value
    panel.checker.idle.wait(60)


def test_mistakes_are_said_in_the_panel(llama):
    panel = CompilePanel({**notebook_of(llama), "lm": None})
    assert panel.choice["student"] == "tagger"
    click(labelled(panel.widget, "Start"))
    until(lambda: panel.does == "start")
    assert panel.run is None and "no LM" in panel.message.value
    empty = CompilePanel({})
    assert empty.checker.idle.wait(60) and "Define a program" in empty.lines["all"].value


def test_the_job_file_is_the_run_s(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text("import dspy\nclass Tagger(dspy.Module):\n    def __init__(self):\n        super().__init__()\n        self.tag = dspy.Predict('word -> kind')\n    def forward(self, word):\n        return self.tag(word=word)\ndef accept(example, prediction, trace=None):\n    return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_task

    panel = CompilePanel({**notebook_of(llama), "tagger": my_task.Tagger(), "accept": my_task.accept})
    panel.controls["lm"].value, panel.controls["target"].value, panel.controls["bsize"].value = "lm", str(llama), 2
    click(labelled(panel.widget, "Write job file"))
    assert "job.yaml" in panel.message.value and "It lacks lm, trainset" in panel.message.value
    panel.start()
    panel.run.result(120)
    assert read_job("job.yaml") == panel.run.config() and read_job("job.yaml")["student"] == "my_task:Tagger"
    panel.checker.idle.wait(60)


def test_new_names_are_found(llama):
    names = {}
    panel = CompilePanel(names)
    names.update(notebook_of(llama))
    click(labelled(panel.widget, "Look again"))
    assert panel.choice["student"] == "tagger" and Path(names["llama"]).exists()


def test_the_preflight_is_never_stale_and_never_blocks(llama, monkeypatch):
    asked = []

    class Plan(dict):
        lines = dict.copy

    def preflight(self, student, *, trainset, **kwargs):
        asked.append(kwargs.get("epochs", 1))
        time.sleep(0.5)
        return Plan(teacher=f"{len(trainset)} examples", training=f"{asked[-1]} epochs <b>")

    monkeypatch.setattr(BootstrapFinetune, "preflight", preflight, raising=False)
    panel = CompilePanel(notebook_of(llama))
    seen, line, took = [], panel.lines["student"], []
    line.observe(lambda change: seen.append(change.new), "value")
    from_browser(panel.controls["target"], value="no/such-model")
    assert "checking" in panel.lines["all"].value
    assert panel.checker.idle.wait(60) and "not on this machine" in line.value and not asked, "nothing is fetched to look"
    from_browser(panel.controls["target"], value=str(llama))
    for epochs in range(2, 8):
        began = time.monotonic()
        from_browser(panel.controls["epochs"], value=epochs)
        took.append(time.monotonic() - began)
        assert line.value == "", "what was said of another choice is gone at once"
        time.sleep(0.1)
    assert panel.checker.idle.wait(60) and "7 epochs &lt;b&gt;" in line.value and "6 examples" in panel.lines["teacher"].value
    assert max(took) < 0.2 and asked[-1] == 7 and len(asked) <= 2 and not [v for v in seen if "epochs" in v and "7 epochs" not in v]
