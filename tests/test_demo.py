"""The demo with a small target: the second run takes the finished student."""
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """
import bsft_nb.demo.tickets as demo
small = demo.tickets
demo.tickets = lambda split: small(split)[:40] if split == "train" else small(split)[:6]
demo.SHOWN = demo.SHOWN[:1]
demo.both_right = lambda example, prediction, trace=None: True  # a model with random weights is never right
demo.main(["--target", "target", "--rounds", "1", "--epochs", "1"])
"""


def demo(home) -> tuple[dict, list[dict], float]:
    "Figures, events of the run, and seconds of a demo in a process of its own, in the folder of its target."
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", CODE], cwd=home, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = Path(home, "runs").glob("*/events.jsonl")
    return json.loads(done.stdout.splitlines()[-1]), [json.loads(line) for line in log.read_text().splitlines()], time.monotonic() - began


def test_a_second_demo_takes_the_finished_student(chat_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("BSFT_HOME", str(tmp_path))
    target = Path(shutil.copytree(chat_llama, tmp_path / "target"))
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))  # a byte a token
    first, events, _ = demo(tmp_path)
    assert [e["kind"] for e in events].count("run") == 1 and any(e["kind"] == "train" for e in events)
    second, both, seconds = demo(tmp_path)
    after = both[len(events):]
    assert any(e["data"].get("reused") for e in after)
    assert not any(e["kind"] in ("bootstrap", "trace", "train") for e in after)
    assert {k: first[k] for k in ("traces_tried", "train_rows", "tuned")} == {k: second[k] for k in ("traces_tried", "train_rows", "tuned")}
    assert seconds < 60


def test_ctrl_c_ends_the_demo_in_two_lines(monkeypatch):
    from bsft_nb.demo import tickets
    from bsft_nb.run.events import Stopped

    def stopped(*args):
        raise Stopped("stopped on request after step 3 of 9")

    monkeypatch.setattr(tickets, "tuned_by", stopped)
    monkeypatch.setattr(tickets, "local_lm", lambda *args, **options: lambda *args, **options: None)
    monkeypatch.setattr(tickets, "right_share", lambda *args: (0.0, []))
    with pytest.raises(SystemExit, match="stopped on request after step 3 of 9\nThe next `make demo`"):
        tickets.main([])
