"""How fast the JupyterLab extension shows runs, and what it costs the server.

    python tests/bench/lab.py [--quick] [--no-browser]

The last line is a JSON object: bundle_kb (all scripts of the extension), sidebar_first_paint_s (from the empty sidebar to
its first card, with 1,000 runs), page_turn_s (slowest of 20, from the click to the new page on the screen, 100,000 rows of
about 1.8 kB), event_to_screen_s (slowest of 10, from the line in the log to the words in an open page), stop_s (from the
click to the run's end, in a process that is no kernel), server_block_ms (longest time for which the event loop could
not run while the sidebar's cards, a log of 200 MB and the table are read in the server's threads), server_idle_ms (the
same with nothing to read: what the machine itself adds), first_view_s (the run with that log, opened for the first time).
"""
import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / part) for part in ("bench", "browser", "")]


def make_runs(home: Path, n: int, rows: int, log_mb: int):
    "`n` runs that have ended, one of them with a large table, one with a large log; and one that is under way."
    from panels import rows as table_rows

    from bsft_nb.results.table import write_table
    from bsft_nb.run.files import write_json
    from bsft_nb.run.folder import RunFolder

    for i in range(n):
        run = RunFolder(home / "runs" / f"run-{i:04}")
        about = {"scores": {"teacher": 0.9, "tuned": i / n, "untuned": 0.2}, "seconds": {"train": i}, "created": f"2026-01-{1 + i % 28:02} 00:00:00"}
        write_json(run / "run.json", {"status": "finished", "program": "Triage", "target": "google/flan-t5-base", **about})
        run.log.emit("run", id=run.id)
    write_table(home / "runs/run-0000/compare.jsonl", table_rows(rows))
    line = json.dumps({"kind": "train", "t": 1.0, "data": {"model": "say", "step": 0, "steps": 10**7, "loss": 1.0, "lr": 1e-4, "tokens_per_s": 1000.0, "examples_per_s": 9.0, "note": ""}})
    with open(home / "runs/run-0001/events.jsonl", "a") as f:
        for step in range(log_mb * 1_000_000 // (len(line) + 6)):
            f.write(line.replace('"step": 0', f'"step": {step + 1}') + "\n")


async def longest_block(work, *args) -> tuple[float, float]:
    "Longest time for which the loop could not run while `work` is done in a thread, and how long the work took (seconds)."
    from bsft_nb.lab.server import in_thread

    task, worst, began = asyncio.ensure_future(in_thread(work, *args)), 0.0, time.perf_counter()
    while not task.done():
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        worst = max(worst, time.perf_counter() - before - 0.005)
    await task
    return worst, time.perf_counter() - began


def server_figures(root: Path, home: Path) -> dict:
    from bsft_nb.lab.places import Places, key_of
    from bsft_nb.lab.server import read
    from bsft_nb.lab.states import Desk

    desk = Desk(Places(root, home))
    table, log = (key_of((home / f"runs/run-000{i}").resolve()) for i in (0, 1))
    work = {
        "cards": (lambda: len(desk.cards()),),
        "cards again": (lambda: len(desk.cards()),),
        "log": (read, desk, log, "", None, {}),
        "table": (read, desk, table, "compare", None, {}),
        "sorted": (read, desk, table, "compare", None, {"sort": "inputs.message"}),
        "search": (read, desk, table, "compare", None, {"search": "telephone 99"}),
        "verdict": (read, desk, table, "verdict", None, {}),
    }
    idle, _ = asyncio.run(longest_block(time.sleep, 3))
    blocks, times = {}, {}
    for name, call in work.items():
        blocks[name], times[name] = asyncio.run(longest_block(*call))
        print(f"{name}: {times[name]:.2f} s, the loop waited at most {1000 * blocks[name]:.0f} ms")
    return {"server_block_ms": round(1000 * max(blocks.values()), 1), "server_idle_ms": round(1000 * idle, 1), "first_view_s": round(times["log"], 2)}


@contextlib.contextmanager
def jupyterlab(root: Path, home: Path):
    "The address of a JupyterLab with the extension."
    extension = root / ".data/labextensions/bsft_nb"
    extension.parent.mkdir(parents=True)
    extension.symlink_to(ROOT / "bsft_nb/labextension")
    dirs = {f"JUPYTER_{k}_DIR": str(root / f".{k.lower()}") for k in ("CONFIG", "RUNTIME", "DATA")}
    env = {**os.environ, **dirs, "JUPYTER_CONFIG_PATH": str(ROOT / "etc/jupyter"), "PYTHONPATH": str(ROOT), "BSFT_HOME": str(home)}
    options = ["--no-browser", "--port=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--expose-app-in-browser", "--allow-root"]
    with open(root / "lab.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, cwd=root, stdout=log, stderr=log)
    try:
        for _ in range(480):
            with contextlib.suppress(OSError, IndexError):
                url = json.loads(next(iter((root / ".runtime").glob("jpserver-*.json"))).read_text())["url"] if list((root / ".runtime").glob("jpserver-*.json")) else ""
                if url and urllib.request.urlopen(url + "api/status", timeout=5):
                    break
            time.sleep(0.25)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.send_signal(signal.SIGTERM)
        server.wait(20)


WATCH = """
window.seen = {};
new MutationObserver(() => {
  for (const name of ['.bsft-sidebar', '.bsft-card']) if (!window.seen[name] && document.querySelector(name)) window.seen[name] = performance.now();
}).observe(document, { childList: true, subtree: true });
"""


def browser_figures(root: Path, home: Path) -> dict:
    from playwright.sync_api import sync_playwright

    from bsft_nb.run.folder import RunFolder

    with jupyterlab(root, home) as url, sync_playwright() as p:
        page = p.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]).new_context(viewport={"width": 1280, "height": 860}).new_page()
        page.add_init_script(WATCH)
        paints = []
        for _ in range(3):
            page.goto(f"{url}lab/workspaces/bench?reset")
            page.wait_for_function("window.seen['.bsft-card']", timeout=120_000)
            paints.append(page.evaluate("(window.seen['.bsft-card'] - window.seen['.bsft-sidebar']) / 1000"))
        page.evaluate("window.jupyterapp.restored.then(() => window.jupyterapp.commands.execute('bsft:show-sidebar')).then(() => null)")
        figures = {"sidebar_first_paint_s": round(min(paints), 3)}
        figures |= {"page_turn_s": page_turns(page), "event_to_screen_s": events_seen(page, RunFolder(home / "runs/run-0002"))}
        return figures | {"stop_s": stopped(page, root, home)}


def opened(page, name: str):
    page.get_by_label("Search runs").fill(name)
    page.locator(f".bsft-card:has-text('{name}') .bsft-open").click()
    page.locator(f".bsft-document:visible h1:has-text('{name}')").wait_for(timeout=120_000)
    return page.locator(".bsft-document:visible")


def page_turns(page) -> float:
    document = opened(page, "run-0000")
    document.get_by_role("tab", name="Compare").click()
    document.get_by_text("1–25 of").wait_for(timeout=120_000)
    turns = []
    for i in range(1, 21):
        wanted = f"{25 * i + 1}–{25 * i + 25} of"
        turns.append(page.evaluate("""wanted => new Promise(done => {
            const began = performance.now(), look = () => document.querySelector('.bsft-document:not(.lm-mod-hidden) .bsft-compare tbody .bsft-open')?.innerText === wanted ? done((performance.now() - began) / 1000) : requestAnimationFrame(look);
            document.querySelector('.bsft-document:not(.lm-mod-hidden) [aria-label="Next page"]').click();
            look();
        })""", f"{25 * i + 1}"))
        document.get_by_text(wanted).wait_for(timeout=30_000)
    print(f"page turns {min(turns):.3f} to {max(turns):.3f} s")
    return round(max(turns), 3)


def events_seen(page, run) -> float:
    presence = run.presence("compile")
    presence.acquire(key="k", began=time.time())
    run.update(status="running", worker={"began": time.time()})
    document, seen = opened(page, run.id), []
    for step in range(1, 11):
        began = time.perf_counter()
        run.log.emit("train", model="say", step=step, steps=20, loss=1.0)
        document.get_by_text(f"step {step} of 20").first.wait_for(timeout=30_000)
        seen.append(time.perf_counter() - began)
    presence.release()
    run.update(status="finished")
    print(f"events on the screen after {min(seen):.2f} to {max(seen):.2f} s")
    return round(max(seen), 2)


def stopped(page, root: Path, home: Path) -> float:
    "From the click on Stop to the end of the process that trains."
    from test_lab_browser import LONG

    env = {**os.environ, "BSFT_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", LONG, "3000"], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page.get_by_label("Search runs").fill("shout")
        card = page.locator(".bsft-card[data-status=running]").first
        card.get_by_text("train ").wait_for(timeout=180_000)
        began = time.perf_counter()
        card.get_by_role("button", name="Stop").click()
        page.locator(".bsft-card[data-status=stopped]").first.wait_for(timeout=120_000)
        return round(time.perf_counter() - began, 2)
    finally:
        process.kill()


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true", help="50 runs, 2,000 rows, a log of 5 MB")
    ask.add_argument("--no-browser", action="store_true", help="only what needs no Chromium")
    args = ask.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        home = root / ".bsft"
        make_runs(home, *((50, 2_000, 5) if args.quick else (1_000, 100_000, 200)))
        scripts = list((ROOT / "bsft_nb/labextension/static").glob("*.js"))
        figures = {"bundle_kb": round(sum(f.stat().st_size for f in scripts) / 1000, 1), **server_figures(root, home)}
        if not args.no_browser:
            figures |= browser_figures(root, home)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
