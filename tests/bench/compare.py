"How long a table of 100,000 rows takes to open, page, filter, search and slice. Last line: one JSON object."
import argparse
import json
import tempfile
import time
from pathlib import Path

from bsft_nb.results.table import Table, write_table
from bsft_nb.results.table_file import COLUMNS
from bsft_nb.results.verdict import verdict


def timed(call, times=1):
    "Seconds of the slowest of some calls, and the last result."
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return max(seconds), result


def row(i):
    "About 1.5 kB."
    said = {c: f"answer {(i * (3 + j)) % 97} " + "some words of it " * 6 for j, c in enumerate(COLUMNS)}
    columns = {c: {"outputs": {"answer": s}, "calls": [{"predictor": "self", "inputs": {"question": f"question {i}"}, "outputs": {"answer": s}}], "score": float((i * (7 + j)) % 5 > j), "error": None, "latency": 0.1 + i % 7, "tokens": 100 + i % 50, "cost": 0.001, "cached": 0, "traceback": None} for j, (c, s) in enumerate(said.items())}
    return {"example": f"{i:016x}", "run": "bench", "inputs": {"question": f"question {i} " + "with context " * 15}, "labels": {"team": f"team {i % 8}"}, "columns": columns}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    n = 10_000 if parser.parse_args().quick else 100_000
    path = Path(tempfile.mkdtemp()) / "compare.jsonl"
    figures = {"rows": n}
    figures["write_s"], _ = timed(lambda: write_table(path, map(row, range(n))))
    figures["bytes_a_row"] = path.stat().st_size / n
    figures["open_s"], table = timed(lambda: Table(path), 3)
    figures["filter_s"], regressed = timed(lambda: table.select("regressed"), 3)
    figures["page_s"], page = timed(lambda: table.page(regressed, len(regressed) // 100), 3)
    figures["page_kb"] = len(json.dumps(page)) / 1000
    figures["sort_s"], _ = timed(lambda: table.select(sort="tuned.latency"), 2)
    figures["search_s"], found = timed(lambda: table.select(search=f"QUESTION {n - 1} "), 2)
    assert found.tolist() == [n - 1]
    figures["first_slice_s"], slices = timed(lambda: table.slices("labels.team"))
    assert len(slices) == 8
    figures["slice_s"], _ = timed(lambda: table.slices("labels.team"), 2)
    figures["verdict_s"], v = timed(lambda: verdict(table))
    path.with_suffix(".index.npz").unlink()
    figures["rebuild_index_s"], _ = timed(lambda: Table(path))
    print(v)
    print(json.dumps({k: round(v, 4) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
