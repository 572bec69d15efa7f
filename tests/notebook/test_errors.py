"""What a cell shows where a compile does not come to its end: a few lines, and all of it by %tb."""
import _thread

import dspy
import pytest
from IPython.core.interactiveshell import InteractiveShell

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
