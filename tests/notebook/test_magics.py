"""The magics through a real shell: results, mistakes, completion, help, loading and unloading."""
import time

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from test_widgets import compared  # noqa: F401  (a fixture)

from bsft_nb.lab.places import key_of
from bsft_nb.lessons import teacher_lm
from bsft_nb.notebook.arguments import COMMANDS
from bsft_nb.notebook.compare_panel import ComparePanel
from bsft_nb.notebook.compile_panel import CompilePanel
from bsft_nb.notebook.data_panel import DataPanel
from bsft_nb.notebook.magics import load_ipython_extension, unload_ipython_extension
from bsft_nb.optimizer.run import Run
from bsft_nb.run.folder import RunFolder, home
from bsft_nb.run.frontend import BSFT


@pytest.fixture
def shell():
    made = InteractiveShell()
    load_ipython_extension(made)
    yield made
    unload_ipython_extension(made)


def ran(shell, code: str):
    "The result of a cell; raises what it raised."
    done = shell.run_cell(code)
    done.raise_error()
    return done.result


def make_run(name="demo-1", status="running", created="2026-01-31 10:00:00"):
    folder = RunFolder(home() / "runs" / name)
    folder.update(status=status, created=created, target="t")
    folder.log.emit("run", id=name, note="run begins")
    folder.log.emit("trace", kept=True, reason="", again=False)
    return folder


PROGRAM = """
import dspy
class Tagger(dspy.Module):
    def __init__(self):
        super().__init__()
        self.tag = dspy.Predict("word -> kind")
    def forward(self, word):
        return self.tag(word=word)
"""


@pytest.fixture
def words(shell, llama):
    ran(shell, PROGRAM)
    ran(shell, "train = [dspy.Example(word=f'word {i}').with_inputs('word') for i in range(6)]\ndef accept(example, prediction, trace=None):\n    return True")
    shell.user_ns |= {"lm": teacher_lm(lambda text: {"kind": "noun"}), "llama": llama}
    return f"--trainset train --metric accept --lm lm --target {llama} --bsize 2"


def test_runs_and_status_are_values_and_read_well(shell):
    assert ran(shell, "runs = %bsft runs\nruns") == []
    make_run("old-1", "finished", "2026-01-01 10:00:00")
    make_run()
    RunFolder(home() / "runs" / "old-1").update(program="Tagger", scores={"tuned": 0.875, "teacher": 1.0}, seconds={"bootstrap": 61.0, "train": 4.0})
    runs = ran(shell, "%bsft runs")
    assert [r["id"] for r in runs] == ["demo-1", "old-1"]
    shown = runs._repr_html_()
    assert all(w in shown for w in ("<table", "Tagger", "tuned 0.875, teacher 1", "1 min 5 s"))
    assert key_of((home() / "runs" / "old-1").resolve()) in shown and "bsft:open" in shown, "an id opens the run's page in JupyterLab"
    status = ran(shell, "%bsft status")
    assert status.startswith("demo-1: running; bootstrap  1 attempts") and "<table" in status._repr_html_()


def test_stop_takes_the_only_working_run_and_else_says_what_there_is(shell):
    assert "Nothing is running" in ran(shell, "%bsft stop")._repr_html_()
    old, folder = make_run("old-1", "finished", created="2026-02-01 10:00:00"), make_run()
    assert "does not run: it is finished" in ran(shell, "%bsft stop old-1") and not old.stop_signal.requested
    assert "asked to stop" in ran(shell, "%bsft stop") and folder.stop_signal.requested, "the newest one has ended, and is not meant"
    other = make_run("other-1")
    listed = ran(shell, "%bsft stop")
    assert {r["id"] for r in listed} == {"demo-1", "other-1"} and "Say which one" in listed.note and not other.stop_signal.requested


def test_bare_and_help_tell_what_there_is(shell):
    make_run()
    told = ran(shell, "%bsft")
    assert all(c in told for c in COMMANDS) and "1 run here, at work: demo-1" in told._repr_html_()
    stop, compiles = ran(shell, "%bsft stop --help"), ran(shell, "%bsft compile --help")
    assert "--epochs" not in stop and "the only one that works" in " ".join(stop.split())
    assert "--epochs" in compiles and "--start" in compiles and stop._repr_html_() is None


def test_attach_takes_the_only_working_run_and_else_lists(shell, capsys):
    assert ran(shell, "%bsft attach") == []
    make_run("old-1", "finished")
    make_run()
    run = ran(shell, "run = %bsft attach\nrun")
    assert isinstance(run, Run) and run.id == "demo-1"
    make_run("other-1")
    assert {r["id"] for r in ran(shell, "%bsft attach")} == {"demo-1", "other-1"}
    assert ran(shell, "%bsft attach old-1").status == "finished"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("status nothing-here", "no run 'nothing-here'"),
        ("compare demo-1", "compare"),
        ("data demo-1", "no pairs yet"),
        ("frobnicate", "no subcommand 'frobnicate'"),
        ("stats", "did you mean 'status'"),
        ("compile --bsize many", "invalid int"),
        ("compile --epcohs 3", "did you mean '--epochs'"),
        ("runs --bsize 2", "runs does not know --bsize"),
        ("compile", "needs a cell"),
    ],
)
def test_mistakes_are_usage_errors_of_one_line(shell, line, says):
    make_run()
    with pytest.raises(UsageError, match=says):
        shell.run_line_magic("bsft", line)


def test_a_usage_error_chains_its_cause(shell):
    make_run()
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("bsft", "status nothing-here")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("options", "body", "says"),
    [
        ("", "Tagger()", "--trainset"),
        ("--trainset nowhere", "Tagger()", "NameError"),
        ("--trainset train", "Tagger", "end the cell with the program"),
        ("--trainset train", "x = 1", "None, not a dspy.Module"),
        ("--trainset train[:0] --lm lm", "Tagger()", "trainset is empty"),
        ("--trainset train --metric train", "Tagger()", "not callable"),
        ("--trainset train --lm lm --epochs 0", "Tagger()", "epochs=0"),
    ],
)
def test_mistakes_in_a_compile_are_found_before_anything_is_done(shell, words, options, body, says):
    with pytest.raises(UsageError, match=says):
        shell.run_cell_magic("bsft", f"compile {options}", body)
    assert not (home() / "runs").exists() and shell.user_ns["lm"].engine.calls == 0


def test_an_error_in_the_body_keeps_its_own_type(shell, words):
    with pytest.raises(ZeroDivisionError):
        shell.run_cell_magic("bsft", "compile --trainset train", "1 / 0")


def test_a_cell_compiles_the_program_that_it_ends_in(shell, words):
    ran(shell, f"%%bsft compile {words} --out compiled\nextra = 5\nTagger()")
    compiled = shell.user_ns["compiled"]
    assert shell.user_ns["extra"] == 5 and compiled._compiled and type(compiled).__name__ == "Tagger"
    run = ran(shell, f"%%bsft compile {words} --start --student tagger\ntagger = Tagger()")
    assert isinstance(run, Run) and run.result(120)._compiled and run.status == "finished"
    assert len(ran(shell, "%bsft runs")) == 1, "the same compile is the same run"
    again = ran(shell, "%bsft compare --student tagger --lm lm --metric accept --epochs 1")
    assert set(again.ask({"words": "a b"})) == {"teacher", "tuned", "untuned"}
    again.select(filter="all")
    assert again.send_again().result(120)._compiled and again.result.id != run.id
    panel = ran(shell, "%bsft data " + run.id)
    assert isinstance(panel, DataPanel) and len(panel.pairs) > 1
    panel.drop(0)
    calls = shell.user_ns["lm"].engine.calls
    panel.train_on()
    end = time.monotonic() + 120
    while panel.result is None and time.monotonic() < end:
        time.sleep(0.05)
    assert panel.result.result(120)._compiled and len(panel.result.pairs["train"]) == len(panel.pairs), "trained on the rows that are left"
    assert shell.user_ns["lm"].engine.calls == calls
    ran(shell, "%bsft report --out path")
    assert shell.user_ns["path"].exists() and "bsft:report" in shell.user_ns["path"]._repr_html_()


def test_panels(shell, words, compared):  # noqa: F811
    folder = make_run()
    compared.path.rename(folder / "compare.jsonl")
    panel = ran(shell, "%bsft compare demo-1")
    assert isinstance(panel, ComparePanel) and len(panel.selected) == 120
    panel = ran(shell, "%bsft panel")
    assert isinstance(panel, CompilePanel) and panel.choice["trainset"] == "train"


def test_completion_of_commands_runs_and_names(shell, words):
    make_run()

    def offers(line):
        return shell.complete(line.split(" ")[-1], line, len(line))[1]

    for jedi in (False, True):  # JupyterLab's kernel asks with jedi
        shell.Completer.use_jedi = jedi
        assert {"runs", "attach"} <= set(offers("%bsft "))
        assert "status" in offers("%bsft sta") and "status" in offers("state = %bsft sta") and "demo-1" in offers("%bsft status ")
        assert [o for o in offers("%%bsft compile --trainset t") if "=" not in o] == ["train"] and offers("%%bsft compile --ep") == ["--epochs"]
        assert offers("%bsft stop --e") == [], "no options of others"
    make_run("old-1", "finished")
    assert "old-1" not in offers("%bsft stop ") and "old-1" in offers("%bsft report ")


def test_help_names_every_argument(shell):
    text = shell.object_inspect("%bsft")["docstring"] or shell.find_line_magic("bsft").__doc__
    assert all(a in text for a in ("runs", "attach", "--trainset", "--peft", "--out"))


def test_settings_by_config(shell):
    try:
        ran(shell, "%config BSFT.display = 'text'")
        assert BSFT.instance().display == "text"
    finally:
        BSFT.instance().display = "auto"


def test_unloading_leaves_nothing():
    shell = InteractiveShell()
    before = len(shell.configurables)
    load_ipython_extension(shell)
    load_ipython_extension(shell)
    assert shell.find_magic("bsft") and len(shell.configurables) == before + 2  # the settings and the magics
    unload_ipython_extension(shell)
    unload_ipython_extension(shell)
    assert shell.find_magic("bsft") is None and len(shell.configurables) == before
