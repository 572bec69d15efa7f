"""How fast the JupyterLab extension shows runs, and what it costs the server.

    python tests/bench/lab.py [--quick] [--no-browser] [--no-server]

The last line is a JSON object: bundle_kb (all scripts of the extension), sidebar_first_paint_s (from the empty sidebar to
its first card, with 1,000 runs), page_turn_s (slowest of 20, from the click to the new page on the screen, 100,000 rows of
about 1.8 kB), event_to_screen_s (slowest of 10, from the line in the log to the words in an open page), stop_s (from the
click to the run's end, in a process that is no kernel), training_overhead (how much longer a step of a training takes with
the sidebar and the run's page open than with neither: 5 turns of each in one training, whose medians are compared),
server_block_ms (longest time for which the event loop could not run while the reader is asked for the sidebar's cards, a
log of 200 MB and the table), server_idle_ms (the same with nothing to read: what the machine itself adds), reader_start_s
(until a reader that was just begun answers), first_view_s (the run with that log, opened for the first time, until
something is said of it), whole_view_s (until it is read to its end).
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


async def longest_block(work) -> tuple[float, float]:
    "Longest time for which the loop could not run while `work` is awaited, and how long that took (seconds)."
    task, worst, began = asyncio.ensure_future(work), 0.0, time.perf_counter()
    while not task.done():
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        worst = max(worst, time.perf_counter() - before - 0.005)
    await task
    return worst, time.perf_counter() - began


async def server_figures(root: Path, home: Path) -> dict:
    from bsft_nb.lab.places import key_of
    from bsft_nb.lab.reader import ReaderProcess

    reader = ReaderProcess({"root": str(root), "home": str(home), "more": []})
    table, log = (key_of((home / f"runs/run-000{i}").resolve()) for i in (0, 1))

    async def whole():
        while json.loads(await reader.ask("read", log, "", "", None, {}))["read"] is not None:
            pass

    async def listening():
        for _ in range(10):
            await reader.ask("news", "a", {log: "", table: ""}, ())
            await asyncio.sleep(0.1)

    def asked(key: str, what: str, **more: str):
        return lambda: reader.ask("read", key, "", what, None, more)

    work = {
        "start": lambda: reader.ask("warm"),
        "cards": lambda: reader.ask("cards"),
        "cards again": lambda: reader.ask("cards"),
        "log": asked(log, ""),
        "the whole log": whole,
        "news": listening,
        "table": asked(table, "compare"),
        "next page": asked(table, "compare", page="1"),
        "sorted": asked(table, "compare", sort="inputs.message"),
        "search": asked(table, "compare", search="telephone 99"),
        "slices": asked(table, "slices", field="labels.team"),
        "verdict": asked(table, "verdict"),
    }
    idle, _ = await longest_block(asyncio.sleep(3))
    blocks, times = {}, {}
    for name, begin in work.items():
        blocks[name], times[name] = await longest_block(begin())
        print(f"{name}: {times[name]:.2f} s, the loop waited at most {1000 * blocks[name]:.0f} ms", flush=True)
    reader.close()
    return {
        "server_block_ms": round(1000 * max(blocks.values()), 1), "server_idle_ms": round(1000 * idle, 1),
        "reader_start_s": round(times["start"], 2), "first_view_s": round(times["log"], 2), "whole_view_s": round(times["log"] + times["the whole log"], 2),
    }


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
        return figures | {"training_overhead": overhead(page, f"{url}lab/workspaces/bench", root, home), "stop_s": stopped(page, root, home)}


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


@contextlib.contextmanager
def training(page, root: Path, home: Path, epochs: int):
    "A training in a process that is no kernel, of a run of its own by `epochs`; gives its card, and its run folder."
    from labs import LONG

    from bsft_nb.run.folder import RunFolder

    page.locator(".bsft-card[data-status=running]").first.wait_for(state="hidden", timeout=60_000)  # one that was ended before
    env = {**os.environ, "BSFT_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", LONG, str(epochs)], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page.get_by_label("Search runs").fill("shout")
        card = page.locator(".bsft-card[data-status=running]").first
        card.get_by_text("train ").wait_for(timeout=180_000)
        yield card, RunFolder(home / "runs" / card.locator(".bsft-open").inner_text())
    finally:
        process.kill()
        process.wait()


def overhead(page, url: str, root: Path, home: Path, turns: int = 5, seconds: float = 5.0) -> float:
    "How much longer a step takes with sidebar and page open."
    from statistics import median

    with training(page, root, home, 100_000) as (card, run):
        spans = {True: [], False: []}
        opened(page, run.id)
        page.wait_for_timeout(5000)  # JupyterLab writes down what is open a second after it has changed
        for i in range(2 * turns):
            watched = i % 2 == 0
            page.goto(url if watched else "about:blank")
            if watched:
                page.locator(".bsft-document:visible .bsft-steps li[data-how=now]").wait_for(timeout=60_000)
            page.wait_for_timeout(2000)
            began = time.time()
            page.wait_for_timeout(1000 * seconds)
            spans[watched].append((began, time.time()))
        page.goto(url)
        page.locator(".bsft-card").first.wait_for(timeout=60_000)
    told, takes = [(e.t, e.data["step"]) for e in run.log.read() if e.kind == "train" and "step" in e.data], {}
    for watched, times in spans.items():
        inside = [[(t, step) for t, step in told if began <= t < end] for began, end in times]  # twice a second, not every step
        takes[watched] = [(seen[-1][0] - seen[0][0]) / (seen[-1][1] - seen[0][1]) for seen in inside if len(seen) > 1]
        print(f"a step takes {1000 * min(takes[watched]):.2f} to {1000 * max(takes[watched]):.2f} ms {'with' if watched else 'without'} sidebar and page")
    return round(median(takes[True]) / median(takes[False]) - 1, 4)


def stopped(page, root: Path, home: Path) -> float:
    "From the click on Stop to the end of the process that trains."
    with training(page, root, home, 100_001) as (card, _):
        began = time.perf_counter()
        card.get_by_role("button", name="Stop").click()
        page.locator(".bsft-card[data-status=stopped]").first.wait_for(timeout=120_000)
        return round(time.perf_counter() - began, 2)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true", help="50 runs, 2,000 rows, a log of 5 MB")
    ask.add_argument("--no-browser", action="store_true", help="only what needs no Chromium")
    ask.add_argument("--no-server", action="store_true", help="only what is seen in the browser")
    args = ask.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        home = root / ".bsft"
        make_runs(home, *((50, 2_000, 5) if args.quick else (1_000, 100_000, 200)))
        scripts = list((ROOT / "bsft_nb/labextension/static").glob("*.js"))
        figures = {"bundle_kb": round(sum(f.stat().st_size for f in scripts) / 1000, 1)}
        if not args.no_server:
            figures |= asyncio.run(server_figures(root, home))
        if not args.no_browser:
            figures |= browser_figures(root, home)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
