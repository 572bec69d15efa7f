"""What a cell shows where a compile does not come to its end: a few lines, and all of it by %tb."""
import _thread

import dspy
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

from bsft_nb.lessons import teacher_lm
from bsft_nb.notebook.magics import load_ipython_extension, unload_ipython_extension
from bsft_nb.optimizer.teleprompter import BootstrapFinetune
from bsft_nb.run.events import Stopped

MOST = 16  # lines


def accept(example, prediction, trace=None):
    return True


def never(example, prediction, trace=None):
    return False


def broken(example, prediction, trace=None):
    return prediction["no such field"]


def fails(text):
    raise RuntimeError("the service is down")


@pytest.fixture
def shell(llama):
    made, shown = InteractiveShell(), []
    made._showtraceback = lambda kind, error, lines: shown.append("\n".join(lines))
    load_ipython_extension(made)
    train = [dspy.Example(word=f"word {i}").with_inputs("word") for i in range(6)]
    made.user_ns |= {"BootstrapFinetune": BootstrapFinetune, "student": dspy.Predict("word -> kind"), "train": train, "lm": teacher_lm(lambda text: {"kind": "noun"}), "down": teacher_lm(fails), "asked": dict(trainset=train, target=str(llama), display=False, bsize=2)}
    made.user_ns |= {f.__name__: f for f in (accept, never, broken)}
    made.user_ns["tp"] = lambda metric=accept, lm=made.user_ns["lm"]: BootstrapFinetune(metric, dict(lm=lm))
    made.shown = shown
    yield made
    unload_ipython_extension(made)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("BootstrapFinetune(metrc=accept)", "did you mean 'metric'?"),
        ("tp().compile(student, epoch=2, **asked)", "did you mean 'epochs'?"),
        ("tp().start(student, patience=2, **asked)", "training=dict(patience=…)"),
        ("tp().preflight(student, **asked | dict(trainset=train[:0]))", "trainset is empty"),
        ("tp(lm=down).compile(student, **asked)", "The teacher's program failed in 6 of 6 attempts"),
        ("tp(broken).compile(student, **asked)", "The metric failed in 6 of 6 attempts: KeyError"),
        ("tp(never).start(student, **asked).result()", "no teacher attempt was accepted"),
    ],
)
def test_an_error_is_a_few_lines_and_the_rest_is_by_tb(shell, code, says):
    done = shell.run_cell(code)
    assert done.error_in_exec is not None and len(shell.shown) == 1
    assert says in shell.shown[0], shell.shown[0]
    assert len(shell.shown[0].split("\n")) <= MOST and "Traceback" not in shell.shown[0] and "/bsft_nb/" not in shell.shown[0]
    shell.run_line_magic("tb", "")
    assert "Traceback" in shell.shown[1] and type(done.error_in_exec).__name__ in shell.shown[1] and code[:20] in shell.shown[1]


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_a_stop_is_no_error_in_red(shell, capsys, how):
    def watch(event):
        if event.kind == "train":
            _thread.interrupt_main() if how == "interrupt" else shell.user_ns["optimizer"].run.stop()

    shell.user_ns["watch"] = watch
    done = shell.run_cell("optimizer = tp()\noptimizer.compile(student, epochs=5000, track=watch, **asked)")
    assert isinstance(done.error_in_exec, (Stopped, KeyboardInterrupt)), "the cells after it do not run"
    assert shell.shown == [] and "it goes on from there" in capsys.readouterr().out
    assert shell.user_ns["optimizer"].run.status == "stopped"
    shell.run_line_magic("tb", "")
    assert "Traceback" in shell.shown[0]


def test_a_kernel_that_only_imports_the_package_shows_little_too():
    stop = "from bsft_nb.optimizer.short_errors import told_shortly\nfrom bsft_nb.run.events import Stopped\nwith told_shortly():\n    raise {}"
    codes = ["import bsft_nb", stop.format("Stopped('run a-1 ends at step 3')"), stop.format("KeyboardInterrupt"), "bsft_nb.BootstrapFinetune(metrc=len)", "raise KeyboardInterrupt", "1 / 0"]
    made = NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in codes]), allow_errors=True, timeout=600, startup_timeout=300).execute()
    _, stopped, interrupted, refused, other, error = ([o for o in c.outputs if o.output_type != "stream"] for c in made.cells)
    for card, says in (stopped, "Stopped: run a-1 ends at step 3"), (interrupted, "Interrupted."):
        assert [o.output_type for o in card] == ["display_data"] and says in card[0].data["text/html"] and "it goes on from there" in card[0].data["text/plain"]
    assert [o.output_type for o in refused] == ["error"] and "did you mean 'metric'?" in "\n".join(refused[0].traceback) and len("\n".join(refused[0].traceback).split("\n")) <= MOST
    assert all("Traceback" in "".join(cell[0].traceback) for cell in (other, error)), "what is not of a run is IPython's, as before"
