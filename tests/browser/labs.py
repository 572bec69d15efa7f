"""The sidebar in a browser, runs for it, and a compile that is nobody's kernel."""
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dspy
import pytest
from splash import no_splash

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
        page.on("pageerror", lambda e: self.said.append(f"error: {e.stack or e}"))
        page.goto(f"{self.url}?reset")
        self.loaded()
        page.evaluate("window.jupyterapp.restored.then(() => window.jupyterapp.commands.execute('bsft:show-sidebar')).then(() => null)")

    def loaded(self):
        self.page.wait_for_function("window.jupyterapp && window.jupyterapp.commands.hasCommand('bsft:open')", timeout=60000)
        no_splash(self.page)

    def command(self, name: str, **args):
        return self.page.evaluate("([n, a]) => window.jupyterapp.commands.execute(n, a).then(() => null)", [name, args])

    def has(self, command: str) -> bool:
        return self.page.evaluate("n => window.jupyterapp.commands.hasCommand(n)", command)

    def set(self, **settings):
        "Change the extension's settings, as the settings editor does."
        find = "[...window.jupyterapp.pluginRegistry._plugins.values()].find(p => p.id === '@jupyterlab/apputils-extension:settings').service"
        self.page.evaluate(f"async s => {{ for (const [k, v] of Object.entries(s)) await {find}.set('bsft_nb:plugin', k, v); }}", settings)

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

    def opened(workspace: str, zoom: float = 1.0) -> Lab:
        contexts.append(chromium.new_context(viewport={"width": round(1280 / zoom), "height": round(860 / zoom)}, device_scale_factor=zoom))
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


@pytest.fixture
def whole(runs):
    "A run that has everything that can be shown."
    from bsft_nb.data.builder import Built, save_pairs
    from bsft_nb.data.pairs import Pair
    from bsft_nb.lessons import save_llama

    run = runs("whole-1", scores={"tuned": 0.8, "teacher": 1.0, "untuned": 0.1}, seconds={"train": 90}, config={"lr": 1e-3})
    for i in range(12):
        call = {"predictor": "say", "inputs": {"word": f"w{i}"}, "outputs": {"loud": f"W{i}"}}
        append_line(run / "traces.jsonl", {"example": f"e{i}", "attempt": 0, "inputs": {"word": f"w{i}"}, "prediction": {"loud": f"W{i}"}, "calls": [call], "score": i / 11, "kept": i > 3, "reason": "" if i > 3 else "rejected", "error": "ValueError: no" if i == 1 else None, "key": f"{i:016x}"})
        run.log.emit("trace", kept=i > 3, reason="" if i > 3 else "rejected", example=f"e{i}")
    save_pairs(Built([Pair(f"e{i}", "say" if i % 2 else "check", f"say w{i} loudly", f"W{i}", i / 11, [1, 2, 3], [4, 5], []) for i in range(4, 12)], [Pair("e0", "say", "say w0", "W0", 0.0, [1], [2], [])], {}, []), run / "pairs")
    save_llama(run / "model")
    for step in range(1, 9):
        run.log.emit("train", model="say", step=step, steps=8, loss=3.0 / step, **({"eval_loss": 3.5 / step, "score": step / 8} if step % 4 == 0 else {}))
    run.log.emit("warn", note="only 12 examples")
    run.log.emit("done", status="finished", note="finished")
    examples = [dspy.Example(word=f"w{i}", loud=f"W{i}").with_inputs("word") for i in range(30)]
    answers = {"teacher": lambda i: Answer({"loud": f"W{i}"}, score=1.0), "tuned": lambda i: Answer({"loud": f"W{i}" if i % 5 else "no"}, score=float(i % 5 > 0)), "untuned": lambda i: Answer({}, error="no answer", score=0.0)}
    write_table(run / "compare.jsonl", compare_rows(examples, {c: [of(i) for i in range(30)] for c, of in answers.items()}))
    (run / "train.log").write_text("step 1 of 8\n" * 40)
    return run


@contextlib.contextmanager
def under_way(run: RunFolder, step: int = 3):
    "The run looks as if it were being compiled."
    presence = run.presence("compile")
    presence.acquire(key="k", began=time.time())
    run.update(status="running", worker={"began": time.time()})
    run.log.emit("train", model="say", step=step, steps=8, loss=1.0)
    try:
        yield
    finally:
        presence.release()


def theme(page: Lab, name: str):
    no_splash(page.page)
    page.command("apputils:change-theme", theme=f"JupyterLab {name}")
    page.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str(name == "Light").lower(), timeout=15000)
    no_splash(page.page)
