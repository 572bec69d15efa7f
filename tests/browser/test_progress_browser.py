"""The progress panel in a real JupyterLab: it moves, it stops, it stays."""

SETUP = """
import warnings, logging, pathlib, dspy
warnings.simplefilter("ignore")
from conftest import save_llama, teacher_lm
from bsft_nb import BootstrapFinetune
tiny = pathlib.Path("tiny-llama").absolute()
if not tiny.exists():
    save_llama(tiny)
dspy.configure(lm=None)
trainset = [dspy.Example(words=f"word {i} <script>alert(1)</script>").with_inputs("words") for i in range(40)]
def accept(example, prediction, trace=None):
    return prediction.kind != "even" or "word 8" not in example.words
def optimizer():
    lm = teacher_lm(lambda text: {"kind": "even" if sum(map(ord, text)) % 2 else "odd"})
    return BootstrapFinetune(metric=accept, teacher_settings=dict(lm=lm))
"""
ARGS = "dspy.Predict('words -> kind'), trainset=trainset, target=tiny, bsize=2, lr=1e-3"


def html_outputs(nb, i: int) -> str:
    return "\n".join(o.get("data", {}).get("text/html", "") for o in nb.cells[i].outputs)


def test_started_run_shows_moves_and_stops(notebook):
    nb = notebook("start", [SETUP, f"run = optimizer().start({ARGS}, epochs=400)", "run.status"])
    nb.run(0, 40)
    nb.run(1)
    nb.see(1, "step ", 60)
    first = nb.output(1).inner_text()
    nb.page.wait_for_timeout(2500)
    assert nb.output(1).inner_text() != first
    nb.shot("start-running")
    nb.theme("Dark")
    nb.shot("start-running-dark")
    nb.output(1).get_by_role("button", name="Stop").click()
    nb.see(1, "stopped", 30)
    nb.shot("start-stopped-dark")
    nb.theme("Light")
    nb.shot("start-stopped")
    nb.run(2)
    assert "stopped" in nb.output(2).inner_text()
    saved = nb.saved()
    assert "stopped" in html_outputs(saved, 1)
    assert "widget-view" not in str(saved.cells[1].outputs) and nb.alerts == []
