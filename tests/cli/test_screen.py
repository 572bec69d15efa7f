"""`bsft` shows a run on one screen, by the run's own times, and ends quietly whatever reads it."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bsft_nb.cli import main, status_lines
from bsft_nb.optimizer.run import Run
from bsft_nb.run.events import EventLog
from bsft_nb.run.folder import RunFolder, home


def long_run(attempts=3000, status="running", name="qa-1"):
    folder = RunFolder(home() / "runs" / name)
    folder.update(status=status, program="QA", target="smollm2-135m", created="2026-01-01 12:00:00")
    folder.log.emit("run", id=name, note=f"run {name}")
    folder.log.emit("bootstrap", examples=attempts)
    for i in range(attempts):
        folder.log.emit("trace", kept=i % 3 == 0, reason="" if i % 3 == 0 else "rejected", score=float(i % 3 == 0), again=False)
    folder.log.emit("data", funnel={"trained": {"all": 900}, "held out": {"all": 100}}, note="900 pairs")
    for step in range(1, 200):
        folder.log.emit("train", model="model", step=step, steps=400, loss=2.0 / step)
    for i in range(30):
        folder.log.emit("warn", note=f"warning {i}: " + "long " * 100)
    folder.log.emit("score", which="untuned", score=0.25, n=100)
    return folder


@pytest.mark.parametrize("status", ["running", "finished", "failed", "stopped", "died"])
def test_a_run_fits_on_a_screen(status):
    folder = long_run(300, status)
    lines = status_lines(Run(folder), time.time())
    assert len(lines) < 24 and all(len(line) < 240 for line in lines), lines
    text = "\n".join(lines)
    told = ["qa-1", status, "QA to smollm2-135m", "300 attempts at 300 examples: 100 accepted (200 rejected)", "900 pairs to train on, 100 held out", "step 199 of 400", "untuned 0.250 (n = 100)", "warning 29", str(folder.path)]
    assert [t for t in told if t not in text] == []
    assert {"running": "bsft stop qa-1", "finished": "bsft_nb.load('qa-1', program)"}.get(status, "compile again") in lines[-1]


@pytest.mark.parametrize("years", [0, 1, 30])
def test_durations_are_those_of_the_run(monkeypatch, years):
    clock = iter(range(10**9, 10**9 + 10**6))
    monkeypatch.setattr("bsft_nb.run.events.time.time", lambda: float(next(clock)))
    folder = long_run(60)
    monkeypatch.undo()
    text = "\n".join(status_lines(Run(folder), time.time() + years * 365 * 86400)[1:])
    assert "(40 rejected), 1 min 1 s" in text and "step 199 of 400, loss 0.010, 3 min" in text


@pytest.mark.parametrize("command", [["runs"], ["status", "qa-0"], ["follow", "qa-0", "--every", "0"]])
def test_whoever_reads_may_stop_reading(command):
    for i in range(3):
        long_run(30, "finished", f"qa-{i}")
    code = "import sys; from bsft_nb.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONUNBUFFERED": "1"})
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141


def test_a_terminal_that_cannot_show_a_text_shows_the_rest():
    folder = long_run(3)
    folder.log.emit("warn", note="日本 \u2028 é")
    code = "import sys; from bsft_nb.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "status"], capture_output=True, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"") and b"warning" in done.stdout


def test_a_run_without_anything_has_a_screen(capsys):
    RunFolder(home() / "runs" / "empty").update(status="failed", error="ValueError: no\n\nlines")
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert "empty  failed" in said and "ValueError: no lines" in said and EventLog(home() / "runs" / "empty" / "events.jsonl").read() == []
