"""How fast the compare panel opens and turns a page, and what the progress panel costs a training.

    python tests/bench/panels.py [--quick]

The last line is a JSON object: first_paint_s, page_turn_s (slowest of 20), page_kb (largest), training_overhead
(share of the examples a second that is lost while the panel shows: in one training of a tiny model the panel paints in
every second window of two seconds and rests in the others; the median over pairs of windows), standard_error (of their mean), paint_cpu_share
(processor time of all repaints by the time in which the panel painted). 100,000 rows of about 1.8 kB.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))


def rows(n: int):
    words = "the parcel that I ordered on Monday has not arrived and nobody answers the telephone ".split()
    for i in range(n):
        text = " ".join(words[(i * 7 + k) % len(words)] for k in range(60)) + f" {i}"
        team = ("billing", "shipping", "returns")[i % 3]

        def answer(right: bool, team=team, text=text):
            said = team if right else "other"
            call = {"predictor": "classify", "inputs": {"message": text[:80]}, "outputs": {"team": said}}
            return {"outputs": {"team": said, "why": text[:100]}, "calls": [call], "score": float(right), "error": None, "latency": 0.1, "tokens": 90, "cost": None, "cached": 0, "traceback": None}

        columns = {"teacher": answer(i % 11 > 0), "tuned": answer(i % 7 > 0), "untuned": answer(i % 2 > 0)}
        yield {"example": f"{i:016x}", "run": "tickets-1", "inputs": {"message": text}, "labels": {"team": team}, "columns": columns}


def panel_figures(n: int, folder: Path) -> dict:
    from bsft_nb.notebook.compare_panel import ComparePanel
    from bsft_nb.results.table import Table, write_table

    path = folder / "compare.jsonl"
    write_table(path, rows(n))
    print(f"{n:,} rows of {path.stat().st_size / n:,.0f} bytes")
    began = time.perf_counter()
    panel = ComparePanel(Table(path))
    first = time.perf_counter() - began
    assert len(panel.selected) == n and "rows 1–25" in panel.pager.where.value
    turns, sizes = [], []
    for i in range(20):
        began = time.perf_counter()
        panel.pager.turn(i * (n // 25 // 20) + 1)
        turns.append(time.perf_counter() - began)
        sizes.append(len(panel.shown.value.encode()))
    began = time.perf_counter()
    panel.select(filter="regressed")
    filtered = time.perf_counter() - began
    assert 0 < len(panel.selected) < n
    print(f"filter {filtered:.3f} s, page turns {min(turns):.3f} to {max(turns):.3f} s")
    return {"first_paint_s": round(first, 3), "page_turn_s": round(max(turns), 3), "page_kb": round(max(sizes) / 1000, 1)}


class Place:
    def update(self, html):
        pass


class SometimesShown:
    "A progress panel that paints in every second window of time of one training, and rests in the others."

    def __init__(self, run, window: float):
        from bsft_nb.notebook.progress_panel import ProgressPanel

        self.panel, self.window, self.windows, self.waiting, self.painting = ProgressPanel(run), window, [], [], 0.0
        self.began, paint = time.time(), self.panel.paint

        def timed():
            if self.shown:
                began = time.thread_time()
                paint()
                self.painting += time.thread_time() - began

        self.panel.paint = timed
        run.folder.log.subscribe(self)
        self.panel.begin(Place())

    @property
    def number(self) -> int:
        return int((time.time() - self.began) / self.window)

    @property
    def shown(self) -> bool:
        return self.number % 2 == 1

    def __call__(self, event):
        self.waiting.append(event)
        while self.waiting and (self.shown or event.kind == "done"):
            self.panel(self.waiting.pop(0))
        if event.kind == "train":
            self.windows += [[] for _ in range(self.number + 1 - len(self.windows))]
            self.windows[self.number].append((event.t, event.data["step"]))

    def rates(self) -> list[float | None]:
        "Examples a second in each window but the first, which warms up, and the last, which may be short; None where an epoch ended."
        made = []
        for w in self.windows[1:-1]:
            gaps = [b[0] - a[0] for a, b in zip(w, w[1:])]
            made.append(4 * (w[-1][1] - w[0][1]) / sum(gaps) if len(gaps) > 1 and max(gaps) < 1 else None)
        return made


def overhead(pairs: int, window: float, folder: Path) -> dict:
    import dspy

    from bsft_nb import BootstrapFinetune
    from bsft_nb.lessons import save_llama, teacher_lm

    examples = [dspy.Example(word=f"word {i}").with_inputs("word") for i in range(3000)]
    tp = BootstrapFinetune(teacher_settings=dict(lm=teacher_lm(lambda text: {"kind": "noun"})))
    run = tp.start(dspy.Predict("word -> kind"), trainset=examples, target=save_llama(folder / "llama", width=256), bsize=4, epochs=100, run_dir=folder / "run", display=False)
    watch = SometimesShown(run, window)
    while len(watch.windows) < 2 * pairs + 2:
        time.sleep(0.5)
    run.stop()
    run.wait()
    rates = watch.rates()
    both = [(shown, hidden) for shown, hidden in zip(rates[0::2], rates[1::2]) if shown and hidden]
    print("examples/s with the panel and without:", *(f"{shown:.0f}/{hidden:.0f}" for shown, hidden in both))
    lost = [1 - shown / hidden for shown, hidden in both]
    spread = statistics.stdev(lost) / len(lost) ** 0.5
    return {"training_overhead": round(statistics.median(lost), 4), "standard_error": round(spread, 4), "paint_cpu_share": round(watch.painting / (len(rates) / 2 * window), 5)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 rows, five pairs of windows")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as made:
        os.environ["BSFT_HOME"] = made + "/home"
        figures = panel_figures(10_000 if quick else 100_000, Path(made))
        figures |= overhead(5 if quick else 150, 2.0, Path(made))
    print(json.dumps(figures))
