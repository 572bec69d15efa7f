"""The extension in a real JupyterLab: the sidebar moves and stops runs without a kernel, pages come back, texts stay texts."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dspy
import pytest
from hostile import HOSTILE

from bsft_nb.results.evaluate import Answer
from bsft_nb.results.table import write_table
from bsft_nb.results.table_file import compare_rows
from bsft_nb.run.files import append_line, write_json
from bsft_nb.run.folder import RunFolder

ROOT = Path(__file__).parents[2]
LONG = """
import pathlib, sys, warnings
warnings.simplefilter("ignore")
import bsft_nb
from bsft_nb.lessons import SHOUTS, Shout, is_loud, save_llama, shouting_teacher
tiny = pathlib.Path("tiny-lab")
if not tiny.exists():
    save_llama(tiny)
tp = bsft_nb.BootstrapFinetune(metric=is_loud, teacher_settings=dict(lm=shouting_teacher()))
tp.compile(Shout(), trainset=SHOUTS, valset=[], target=tiny, bsize=2, epochs=int(sys.argv[1]), launch="inline", display=False)
"""


def compile_elsewhere(root: Path, epochs: int) -> subprocess.Popen:
    "A compile in a process that is nobody's kernel."
    env = {**os.environ, "BSFT_HOME": str(root / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "-c", LONG, str(epochs)], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


class Lab:
    "A JupyterLab in the browser with the sidebar open, and no notebook."

    def __init__(self, page, url: str, workspace: str):
        self.page, self.url, self.said = page, f"{url}lab/workspaces/{workspace}", []
        page.on("dialog", lambda d: (self.said.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("pageerror", lambda e: self.said.append(f"error: {e}"))
        page.goto(f"{self.url}?reset")
        self.loaded()
        page.evaluate("window.jupyterapp.restored.then(() => window.jupyterapp.commands.execute('bsft:show-sidebar')).then(() => null)")

    def loaded(self):
        self.page.wait_for_function("window.jupyterapp && window.jupyterapp.commands.hasCommand('bsft:open')", timeout=60000)

    def card(self, words: str):
        return self.page.locator(f".bsft-card:has-text('{words}')").first

    def open(self, words: str):
        "The page of the run whose card says `words`."
        self.card(words).locator(".bsft-open").click()
        return self.document()

    def document(self):
        self.page.locator(".bsft-document:visible .bsft-run").first.wait_for(timeout=60000)
        return self.page.locator(".bsft-document:visible").first

    def tab(self, name: str):
        self.document().get_by_role("tab", name=name).click()
        return self.document().get_by_role("tabpanel")

    def shot(self, name: str):
        shots = Path(os.environ.get("BSFT_SHOTS", ROOT / ".browser"))
        shots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=shots / f"{name}.png")


@pytest.fixture
def sidebar(lab, chromium):
    "`sidebar(workspace)` opens one; all are closed after the test."
    contexts = []

    def opened(workspace: str, width: int = 1280) -> Lab:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 860}))
        return Lab(contexts[-1].new_page(), lab[0], workspace)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def runs(lab):
    "`runs(name, **run.json)` makes a run's folder in the server's home."
    made = []

    def make(name: str, status: str = "finished", **info) -> RunFolder:
        run = RunFolder(lab[1] / "home/runs" / name)
        write_json(run / "run.json", {"status": status, "program": "Shout", "target": "base", "created": "2026-01-01 00:00:00", **info})
        run.log.emit("run", id=name)
        made.append(run)
        return run

    yield make
    for run in made:
        shutil.rmtree(run.path, ignore_errors=True)


def test_the_sidebar_follows_a_run_and_stops_it_without_a_kernel(sidebar, lab):
    page = sidebar("live")
    process = compile_elsewhere(lab[1], 3000)
    try:
        card = page.page.locator(".bsft-card[data-status=running]").first
        card.wait_for(timeout=90000)
        card.get_by_text("train ").wait_for(timeout=90000)
        document = page.open(card.locator(".bsft-open").inner_text())
        train = document.locator(".bsft-steps li[data-how=now]")
        train.get_by_text("step ").wait_for(timeout=30000)
        first = train.inner_text()
        page.page.wait_for_function("first => document.querySelector('.bsft-steps li[data-how=now]')?.innerText !== first", arg=first, timeout=15000)
        assert document.locator("svg polyline").count() > 0 and page.page.locator(".bsft-statusbar button").inner_text().startswith("Shout train")
        page.shot("lab-live")
        name = card.locator(".bsft-open").inner_text()
        card.get_by_role("button", name="Stop").click()
        page.page.locator(f".bsft-card[data-status=stopped]:has-text('{name}')").wait_for(timeout=60000)
        page.page.get_by_text(f"{name}: stopped").first.wait_for(timeout=10000)
        assert process.wait(60) is not None
        document.locator(".bsft-steps li[data-how=stopped]").wait_for(timeout=10000)
        page.shot("lab-stopped")
        assert page.page.locator(".bsft-card[data-status=running]").count() == 0 and page.said == []
    finally:
        process.kill()
        process.communicate()


def test_a_page_comes_back_after_a_reload_with_no_kernel_in_sight(sidebar, runs):
    run = runs("again-1", scores={"tuned": 0.9, "teacher": 1.0})
    for step in range(1, 6):
        run.log.emit("train", model="say", step=step, steps=5, loss=3.0 / step)
    run.log.emit("done", status="finished", note="finished")
    examples = [dspy.Example(word=f"w{i}", loud=f"W{i}").with_inputs("word") for i in range(60)]
    columns = {"teacher": [Answer({"loud": f"W{i}"}, score=1.0) for i in range(60)], "tuned": [Answer({"loud": f"W{i}" if i % 10 else "no"}, score=float(i % 10 > 0)) for i in range(60)]}
    write_table(run / "compare.jsonl", compare_rows(examples, columns))
    page = sidebar("again")
    document = page.open("again-1")
    document.get_by_text("keeps 90% of the teacher").first.wait_for(timeout=60000)
    assert document.locator(".bsft-score[data-which=tuned] .bsft-figure").inner_text() == "0.9"
    page.page.wait_for_timeout(2000)  # the layout is saved a second after it changed
    page.page.goto(page.url)
    page.loaded()
    page.document().get_by_text("keeps 90% of the teacher").first.wait_for(timeout=60000)
    panel = page.tab("Compare")
    panel.get_by_role("button", name="regressed 6").click()
    panel.get_by_text("1–6 of 6 rows").wait_for(timeout=10000)
    panel.get_by_role("button", name="Open 1", exact=True).click()
    panel.locator(".bsft-detail").get_by_text("W0").first.wait_for(timeout=10000)
    page.shot("lab-compare")
    assert page.said == []


def test_hostile_texts_stay_texts(sidebar, runs):
    run = runs("hostile-1", "failed", error=HOSTILE[0] + HOSTILE[2], target=HOSTILE[1])
    for i, text in enumerate(HOSTILE):
        call = {"predictor": text[:60], "inputs": {text[:30]: text}, "outputs": {"a": text}}
        append_line(run / "traces.jsonl", {"example": f"e{i}", "attempt": 0, "inputs": {"q": text}, "prediction": {text[:30]: text}, "calls": [call], "score": 0.0, "kept": False, "reason": text[:60], "error": text, "key": f"{i:016x}"})
        run.log.emit("warn", note=text[:2000])
        run.log.emit("train", model=text[:60], step=i + 1, steps=40, loss=1.0)
    run.log.emit("error", type="E", message=HOSTILE[3])
    examples = [dspy.Example(word=t, loud=t).with_inputs("word") for t in HOSTILE]
    write_table(run / "compare.jsonl", compare_rows(examples, {c: [Answer({"loud": t + c}, score=float(c == "teacher"), error=t) for t in HOSTILE] for c in ("teacher", "tuned")}))
    page = sidebar("hostile")
    document = page.open("hostile-1")
    document.get_by_text("<script>alert(1)</script>").first.wait_for(timeout=60000)
    panel = page.tab("Data")
    panel.locator("tbody tr").nth(10).wait_for(timeout=60000)
    for i in (1, 3):
        panel.get_by_role("button", name=f"Open {i}", exact=True).click()
    panel.locator(".bsft-detail").first.wait_for(timeout=10000)
    panel = page.tab("Compare")
    panel.get_by_role("button", name="Open 3", exact=True).click()
    panel.locator(".bsft-detail").first.wait_for(timeout=60000)
    page.tab("Settings").locator("tbody tr").first.wait_for(timeout=10000)
    page.shot("lab-hostile")
    assert page.page.locator(".bsft-document script, .bsft-document img, .bsft-document iframe, .bsft-document object, .bsft-document a[href], .bsft-document form, .bsft-card img, .bsft-card script").count() == 0
    assert page.said == [], page.said


def test_many_runs_are_searched_sorted_and_asked_about(sidebar, runs, lab):
    for i in range(300):
        runs(f"many-{i:03}", scores={"tuned": i / 300}, seconds={"train": i}, created=f"2026-01-01 00:{i // 60:02}:{i % 60:02}")
    page = sidebar("many")
    page.page.get_by_label("Search runs").fill("many")
    page.card("many-299").wait_for(timeout=30000)
    page.page.get_by_label("Order").select_option("score")
    assert page.page.locator(".bsft-card .bsft-open").first.inner_text() == "many-299"
    page.page.get_by_label("Search runs").fill("many-007")
    page.page.wait_for_function("document.querySelectorAll('.bsft-card').length === 1", timeout=5000)
    page.page.locator(".bsft-card").first.click(button="right")
    page.page.get_by_text("Delete…").click()
    page.page.get_by_role("button", name="Cancel").click()
    assert (lab[1] / "home/runs/many-007").exists() and page.said == []


def test_run_json_opens_as_a_page_that_is_kept_up_to_date(sidebar, lab):
    run = RunFolder(lab[1] / "shown-1")
    write_json(run / "run.json", {"status": "finished", "program": "Shout", "target": "base"})
    run.log.emit("run", id="shown-1")
    page = sidebar("files")
    page.page.evaluate("window.jupyterapp.commands.execute('docmanager:open', {path: 'shown-1/run.json'}).then(() => null)")
    page.document().get_by_role("heading", name="shown-1").wait_for(timeout=30000)
    began = time.time()
    run.log.emit("warn", note="told while the page is open")
    page.document().get_by_text("told while the page is open").first.wait_for(timeout=10000)
    assert time.time() - began < 8 and page.said == []
