"""A real JupyterLab in a headless Chromium: start it, write a notebook, run its cells, look."""
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from labs import runs, sidebar, whole  # noqa: F401 - fixtures
from splash import no_splash

ROOT = Path(__file__).parents[2]
SHOTS = Path(os.environ.get("BSFT_SHOTS", ROOT / ".browser"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name, there in (("chromium (Debian's package)", CHROMIUM), *((m, importlib.util.find_spec(m)) for m in ("jupyterlab", "playwright"))) if not there]


def pytest_collection_modifyitems(items):
    for item in items:
        if MISSING and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(MISSING)}"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "Address of a JupyterLab server and the folder that it serves."
    root = tmp_path_factory.mktemp("lab")
    dirs = {f"JUPYTER_{k}_DIR": str(root / f".{k.lower()}") for k in ("CONFIG", "RUNTIME", "DATA")}
    env = {**os.environ, **dirs, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "BSFT_HOME": str(root / "home"), "IPYTHONDIR": str(root / ".ipython")}
    options = ["--no-browser", "--port=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--expose-app-in-browser", "--allow-root"]
    news = root / ".config" / "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    extension = root / ".data" / "labextensions" / "bsft_nb"  # as the package installs it
    extension.parent.mkdir(parents=True)
    extension.symlink_to(ROOT / "bsft_nb" / "labextension")
    shutil.copytree(ROOT / "etc" / "jupyter", root / ".config", dirs_exist_ok=True)
    with open(root / "lab.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, cwd=root, stdout=log, stderr=log)
    try:
        yield _address(root, server), root
    finally:
        server.send_signal(signal.SIGINT)
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def _address(root: Path, server: subprocess.Popen) -> str:
    for _ in range(240):
        for info in (root / ".runtime").glob("jpserver-*.json"):
            try:
                url = json.loads(info.read_text())["url"]
                with urllib.request.urlopen(url + "api/status", timeout=5):
                    return url
            except (OSError, ValueError):  # not there yet, or half written
                pass
        assert server.poll() is None, (root / "lab.log").read_text()[-3000:]
        time.sleep(0.25)
    raise TimeoutError((root / "lab.log").read_text()[-3000:])


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Notebook:
    "A notebook that is open in the browser."

    def __init__(self, page, lab, name: str, cells: list[str], fresh: bool = True, kernel: bool = True):
        self.page, self.name, (url, self.root) = page, name, lab
        self.alerts = []
        page.on("dialog", lambda d: (self.alerts.append(d.message), d.dismiss()))
        self.path = self.root / f"{name}.ipynb"
        if fresh:
            nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
            nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(nb, self.path)
        if not kernel:
            page.route("**/api/sessions*", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
        page.goto(f"{url}lab/workspaces/{name}/tree/{name}.ipynb?reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60000)
        self.ready() if kernel else page.get_by_role("button", name="Ok").click()  # the dialog that says so
        self.command("application:toggle-left-area") if page.locator(".jp-FileBrowser:visible").count() else None

    def command(self, name: str, **args):
        return self.page.evaluate("([n, a]) => window.jupyterapp.commands.execute(n, a).then(() => null)", [name, args])

    def ready(self):
        "Wait until the kernel answers."
        kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        self.page.wait_for_function(f"(() => {{ try {{ return {kernel}.connectionStatus === 'connected' && {kernel}.status === 'idle' }} catch (e) {{ return false }} }})()", timeout=60000)

    def restart(self):
        "Restart the kernel; all names are gone."
        self.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.restartKernel().then(() => null)")
        self.page.wait_for_timeout(1000)
        self.ready()

    def leave(self):
        "End the kernel and close the page."
        self.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown().then(() => null)")
        self.page.close()

    def cell(self, i: int):
        return self.page.locator(".jp-NotebookPanel:visible .jp-Notebook .jp-Cell").nth(i)

    def output(self, i: int):
        return self.cell(i).locator(".jp-Cell-outputArea")

    def begin(self, i: int):
        "Run cell `i`; does not wait."
        self.cell(i).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def run(self, i: int, timeout: float = 120):
        "Run cell `i` and wait until it has ended; it must not raise."
        self.begin(i)
        self.ended(i, timeout)
        self.ready()  # the prompt has its number before the last output arrives; the kernel is idle after it
        assert "Traceback (most recent call last)" not in self.text(i), self.text(i)

    def ended(self, i: int, timeout: float = 120):
        prompt = self.cell(i).locator(".jp-InputPrompt")
        end = time.time() + timeout
        while not prompt.inner_text().strip("[]: ").isdigit():
            if time.time() > end:
                self.shot("failed")
            assert time.time() < end, f"cell {i} still runs after {timeout} s: {self.output(i).inner_text()}"
            self.page.wait_for_timeout(100)

    def until(self, holds, timeout: float, what: str):
        "Wait until `holds()`; the page goes on meanwhile."
        end = time.time() + timeout
        while not holds():
            assert time.time() < end, f"not within {timeout} s: {what}"
            self.page.wait_for_timeout(200)

    def text(self, i: int) -> str:
        "What the output of cell `i` says; Lab skips the rendering of cells that are out of sight."
        self.cell(i).evaluate("e => e.scrollIntoView({block: 'nearest'})")
        self.page.wait_for_timeout(100)
        return self.output(i).inner_text()

    def see(self, i: int, text: str, timeout: float = 30):
        "Wait until `text` stands in the output of cell `i`."
        try:
            self.output(i).get_by_text(text).locator("visible=true").first.wait_for(timeout=1000 * timeout)
        except Exception as e:
            self.shot("failed", i)
            raise AssertionError(f"cell {i} does not show {text!r} but: {self.output(i).inner_text()}") from e

    def shot(self, name: str, cell: int | None = None):
        "A screenshot, with the output of `cell` at its top."
        SHOTS.mkdir(parents=True, exist_ok=True)
        if cell is not None:
            self.cell(cell).evaluate("e => e.scrollIntoView({block: 'start'})")
            self.page.wait_for_timeout(300)
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def theme(self, name: str):
        no_splash(self.page)
        self.command("apputils:change-theme", theme=f"JupyterLab {name}")
        self.page.wait_for_timeout(1500)
        no_splash(self.page)

    def saved(self):
        "The notebook as it is on the disk, saved now."
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save').then(() => null)")
        self.page.wait_for_timeout(1500)
        return nbformat.read(self.path, 4)


@pytest.fixture
def notebook(lab, chromium):
    "`notebook(name, cells)` opens one; all are closed after the test."
    contexts = []

    def open_notebook(name: str, cells: list[str] = (), fresh: bool = True, kernel: bool = True) -> Notebook:
        contexts.append(chromium.new_context(viewport={"width": 1100, "height": 900}))
        return Notebook(contexts[-1].new_page(), lab, name, list(cells), fresh, kernel)

    yield open_notebook
    for context in contexts:
        context.close()
