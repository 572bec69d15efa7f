"""The progress panel in a real JupyterLab: it moves, it stops, it stays, and it is found again."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = """import warnings, pathlib, dspy
warnings.simplefilter("ignore")
from bsft_nb.lessons import save_llama, teacher_lm
from bsft_nb import BootstrapFinetune
from bsft_nb.models.convert import quiet
tiny = pathlib.Path("tiny-llama").absolute()
if not tiny.exists():
    with quiet():
        save_llama(tiny)
trainset = [dspy.Example(words=f"word {i} <script>alert(1)</script>").with_inputs("words") for i in range(40)]
def accept(example, prediction, trace=None):
    return "word 8" not in example.words
def optimizer():
    lm = teacher_lm(lambda text: {"kind": "even" if sum(map(ord, text)) % 2 else "odd"})
    return BootstrapFinetune(metric=accept, teacher_settings=dict(lm=lm))"""
ARGS = "dspy.Predict('words -> kind'), trainset=trainset, target=tiny, bsize=2, lr=1e-3"


def html_outputs(nb, i: int) -> str:
    return "\n".join(o.get("data", {}).get("text/html", "") for o in nb.cells[i].outputs)


def test_started_run_shows_moves_and_stops(notebook):
    nb = notebook("start", [SETUP, f"run = optimizer().start({ARGS}, epochs=400)", "run.wait(20)"])
    nb.run(0)
    nb.run(1)
    nb.see(1, "step ", 60)
    first = nb.output(1).inner_text()
    nb.page.wait_for_timeout(3000)
    assert nb.output(1).inner_text() != first and nb.output(1).locator("svg polyline").count() > 0
    nb.shot("start-running", 1)
    nb.theme("Dark")
    nb.shot("start-running-dark", 1)
    nb.theme("Light")
    nb.output(1).get_by_role("button", name="Stop").click()
    nb.run(2)
    nb.see(1, ": stopped")
    nb.shot("start-stopped", 1)
    nb.see(2, "stopped")
    saved = nb.saved()
    assert ": <bdi>stopped" in html_outputs(saved, 1) and "widget-view" not in str(saved.cells[1].outputs) and nb.alerts == []


@pytest.mark.slow
def test_stop_works_while_a_cell_awaits(notebook):
    nb = notebook("await", [SETUP, f"compiled = await optimizer().acompile({ARGS}, epochs=401)"])
    nb.run(0)
    nb.begin(1)
    nb.see(1, "step ", 60)
    nb.output(1).get_by_role("button", name="Stop").click()
    nb.ended(1, 30)
    nb.see(1, "Stopped")
    nb.see(1, ": stopped")
    nb.shot("await-stopped", 1)
    assert nb.output(1).get_by_role("button", name="Stop").count() == 0


def test_a_blocking_cell_says_how_to_stop_and_is_interrupted(notebook):
    nb = notebook("blocking", [SETUP, f"compiled = optimizer().compile({ARGS}, epochs=402)"])
    nb.run(0)
    nb.begin(1)
    nb.see(1, "step ", 60)
    nb.see(1, "This cell blocks the kernel")
    nb.shot("blocking-running", 1)
    nb.command("notebook:interrupt-kernel")
    nb.ended(1, 30)
    nb.see(1, ": stopped")
    nb.shot("blocking-interrupted", 1)
    assert ": stopped" in nb.output(1).inner_text() and nb.alerts == []


def test_a_finished_run_stays_in_the_saved_notebook_without_a_kernel(notebook, tmp_path):
    nb = notebook("finished", [SETUP, f"compiled = optimizer().compile({ARGS}, epochs=6)", "compiled(words='x').kind"])
    nb.run(0)
    nb.run(1)
    nb.see(1, ": finished")
    nb.run(2)
    nb.shot("finished", 1)
    saved = nb.saved()
    assert "data:image/png" in html_outputs(saved, 1) and nb.path.stat().st_size < 150_000
    nb.leave()
    again = notebook("finished", fresh=False, kernel=False)
    again.see(1, ": finished")
    assert "No Kernel" in again.page.locator(".jp-NotebookPanel-toolbar").inner_text()
    assert again.output(1).locator("img").evaluate_all("pictures => pictures.every(p => p.naturalWidth > 0)") and "model not found" not in again.page.content()
    again.theme("Dark")
    again.shot("finished-reopened-dark")
    page = tmp_path / "finished.html"
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", str(again.path), "--output", str(page)], check=True, capture_output=True)
    again.page.goto(page.as_uri())
    again.shot("finished-nbconvert")
    assert "finished" in again.page.content() and "jupyter.widget-view" not in page.read_text() and again.alerts == []


OTHER = f"""
import sys
{SETUP}
optimizer().compile({ARGS}, epochs=300, display=False)
"""


def test_a_run_of_another_process_is_attached_to_again_and_again(notebook, lab):
    root = lab[1]
    env = {**os.environ, "BSFT_HOME": str(root / "home"), "PYTHONPATH": os.pathsep.join(str(p) for p in (Path(__file__).parents[2], Path(__file__).parents[1])), "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen([sys.executable, "-c", OTHER], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        nb = notebook("attach", ["import time\n%load_ext bsft_nb", "%bsft runs", "run = %bsft attach", "%bsft stop"])
        nb.run(0)
        while "running" not in nb.output(1).inner_text():
            nb.run(1)
            assert other.poll() is None
        nb.run(2)
        nb.see(2, "step ", 60)
        nb.shot("attached", 2)
        nb.restart()
        nb.run(0)
        nb.run(2)
        nb.see(2, "step ", 60)
        nb.shot("attached-after-restart", 2)
        nb.run(3)
        nb.see(2, ": stopped", 30)
    finally:
        other.terminate()
        other.wait(20)


@pytest.mark.slow
def test_a_notebook_saved_in_mid_run_says_how_the_run_stood(notebook):
    nb = notebook("midrun", [SETUP, f"run = optimizer().start({ARGS}, epochs=403, launch='inline')"])
    nb.run(0)
    nb.run(1)
    nb.see(1, "step ", 60)
    saved = html_outputs(nb.saved(), 1)
    assert "This is how the run stood at" in saved and "%bsft attach" in saved and "predict-" in saved
    assert nb.output(1).get_by_text("This is how the run stood at").locator("visible=true").count() == 0, "the panel itself is there"
    nb.restart()
    nb.see(1, "No news for 30 s", 60)
    nb.shot("kernel-gone", 1)
    nb.saved()
    nb.leave()
    again = notebook("midrun", fresh=False, kernel=False)
    again.see(1, "This is how the run stood at")
    again.shot("midrun-reopened", 1)
    assert again.output(1).get_by_text("%bsft attach").locator("visible=true").count() >= 1 and again.alerts == []
