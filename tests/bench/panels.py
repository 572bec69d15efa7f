"""How fast the compare panel opens and turns a page, and what the progress panel costs a training.

    python tests/bench/panels.py [--quick]

The last line is a JSON object: first_paint_s, page_turn_s (slowest of 20), page_kb (largest), training_overhead
(share of the examples a second that is lost while the panel shows; the median over pairs of trainings, one with
the panel and one without, which of the two is first alternates), paint_cpu_share (processor time of all repaints by
the time of the training). 100,000 rows of about 1.5 kB.
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
    from bsft_nb.compare import Table, write_table
    from bsft_nb.compare_panel import ComparePanel

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


def training(llama: Path, folder: Path, shown: bool, epochs: int) -> tuple[float, float]:
    "Examples a second of a training, and the share of its time that painting took."
    import dspy
    from conftest import teacher_lm

    from bsft_nb import BootstrapFinetune
    from bsft_nb.progress_panel import ProgressPanel

    examples = [dspy.Example(word=f"word {i}").with_inputs("word") for i in range(64)]
    tp = BootstrapFinetune(teacher_settings=dict(lm=teacher_lm(lambda text: {"kind": "noun"})))
    run = tp.start(dspy.Predict("word -> kind"), trainset=examples, target=llama, bsize=4, epochs=epochs, run_dir=folder, display=False)
    spent = [0.0]
    if shown:
        panel = ProgressPanel(run)
        paint = panel.paint

        def timed():
            began = time.thread_time()
            paint()
            spent[0] += time.thread_time() - began

        panel.paint = timed
        run.folder.log.subscribe(panel)
        panel.begin(Place())
    run.result()
    steps = [e for e in run.events if e.kind == "train"]
    seconds = steps[-1].t - steps[0].t
    return 4 * (steps[-1].data["step"] - steps[0].data["step"]) / seconds, spent[0] / seconds


def overhead(pairs: int, epochs: int, folder: Path) -> dict:
    from conftest import save_llama

    llama = save_llama(folder / "llama", width=256)
    training(llama, folder / "warm", False, 2)
    lost, shares = [], []
    for i in range(pairs):
        rates = {}
        for shown in (True, False) if i % 2 else (False, True):
            rates[shown], share = training(llama, folder / f"run-{i}-{shown}", shown, epochs)
            shares += [share] * shown
        lost.append(1 - rates[True] / rates[False])
        print(f"pair {i + 1}: {rates[False]:.1f} examples/s without, {rates[True]:.1f} with the panel")
    return {"training_overhead": round(statistics.median(lost), 4), "paint_cpu_share": round(statistics.median(shares), 4)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 rows, one pair of short trainings")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as made:
        os.environ["BSFT_HOME"] = made + "/home"
        figures = panel_figures(10_000 if quick else 100_000, Path(made))
        figures |= overhead(1 if quick else 5, 8 if quick else 16, Path(made))
    print(json.dumps(figures))
