"""`bsft` carries out jobs that are killed and interrupted, refuses what cannot be before anything is paid, and obeys no text."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

from bsft_nb import BootstrapFinetune
from bsft_nb.cli import main
from bsft_nb.lessons import SHOUTS, is_loud, shouting_teacher
from bsft_nb.run.folder import RunFolder, home, list_runs

CODE = "import sys; from bsft_nb.cli import main; sys.exit(main())"
TASK = """
import os, time
from bsft_nb.lessons import WORDS, Shout, is_loud, teacher_lm

def answer(text):
    with open(os.environ["ASKED"], "a") as f:
        f.write("x")
    time.sleep(float(os.environ.get("SLOW", "0")))
    return {"loud": next(w for w in WORDS if f"\\n{w}\\n" in text.split("word ## ]]")[-1]).upper()}

teacher = teacher_lm(answer)
"""


@pytest.fixture
def task(tmp_path, monkeypatch, llama):
    "A folder with a program, examples and a job file; the current one."
    (tmp_path / "task").mkdir()
    monkeypatch.chdir(tmp_path / "task")
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("shout_task", None)
    Path("shout_task.py").write_text(TASK)
    Path("words.csv").write_text("word,loud\n" + "\n".join(f"{e.word},{e.loud}" for e in SHOUTS))
    Path("job.toml").write_text(f'student = "shout_task:Shout"\ntrainset = "words.csv"\ninputs = ["word"]\nmetric = "shout_task:is_loud"\nlm = "shout_task:teacher"\ntarget = "{llama}"\nbsize = 5\nnum_threads = 1\n')
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    return tmp_path / "task"


def asked(task) -> int:
    path = task.parent / "asked"
    return path.stat().st_size if path.exists() else 0


def until(task, calls: int, how: int, command: list[str], cwd: Path) -> subprocess.Popen:
    "A process that got the signal `how` once the teacher was asked `calls` times in all."
    env = {**os.environ, "SLOW": "0.1", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", CODE, *command], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and asked(task) < calls:
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            pass
    process.send_signal(how)
    process.wait(120)
    return process


def test_a_job_that_is_killed_and_interrupted_is_resumed_and_pays_once(task, tmp_path, capsys):
    killed = until(task, 3, signal.SIGKILL, ["compile", "job.toml"], task)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.read()
    [run] = list_runs()
    assert run["status"] == "died"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stopped = until(task, 6, signal.SIGINT, ["resume", run["id"], "--json"], elsewhere)
    assert stopped.returncode == 130
    said = stopped.stderr.read().splitlines()
    assert json.loads(said[-1])["exit"] == 130 and f"bsft resume {run['id']}" in said[-1] and stopped.stdout.read() == ""
    assert list_runs()[0]["status"] == "stopped"
    assert main(["resume", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["status"], told["teacher"]["accepted"]) == (run["id"], "finished", 10)
    assert 10 <= asked(task) <= 11, "one attempt was in the air when the process was killed"
    paid = asked(task)
    assert main(["compile", "job.toml", "--json"]) == 0 and asked(task) == paid and len(list_runs()) == 1


@pytest.mark.parametrize(
    ("file", "content", "more", "words"),
    [
        ("rows.csv", "word,loud\ncat,CAT\ndog,DOG,3\n", [], "line 3: 3 cells"),
        ("rows.jsonl", '{"word": "cat"}\n{"word"\n', [], "line 2"),
        ("rows.jsonl", "\n\n", [], "no rows"),
        ("rows.json", '{"word": "cat"}', [], "not a list of objects"),
        ("rows.parquet", "PAR1", [], "cannot be read as parquet"),
        ("rows.txt", "cat", [], ".jsonl"),
        ("rows.csv", "word,loud\ncat,CAT\n", ["--inputs", "words"], "there are 'word', 'loud'"),
        ("rows.csv", "word,loud\ncat,CAT\n", ["--inputs", "word,word"], "each once"),
        ("rows.csv", "word,loud\ncat,CAT\n", ["--metric", "shout_task:is_load"], "has no 'is_load'; it has"),
        ("rows.csv", "word,loud\ncat,CAT\n", ["--max_rounds", "0"], "max_rounds=0"),
        ("rows.csv", "word,loud\ncat,CAT\n", ["--peft", "dict(r=open('x'))"], "cannot be read"),
    ],
)
def test_a_mistake_is_refused_with_2_before_anything_is_paid(task, capsys, file, content, more, words):
    Path(file).write_text(content)
    try:
        code = main(["compile", "job.toml", "--trainset", file, *more])
    except SystemExit as e:  # argparse
        code = e.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "") and words in said.err
    assert asked(task) == 0 and list_runs() == []


def test_a_run_that_changed_since_is_not_thrown_away(task, capsys):
    assert main(["compile", "job.toml", "--json"]) == 0
    run = home() / "runs" / list_runs()[0]["id"]
    program = (run / "program.json").read_bytes()
    Path("words.csv").write_text(Path("words.csv").read_text().replace("CAT", "Cat"))
    capsys.readouterr()
    assert main(["resume"]) == 2
    assert "trainset changed" in capsys.readouterr().err and (run / "program.json").read_bytes() == program


def test_what_python_compiled_a_shell_can_carry_out(task, llama, capsys):
    sys.path.insert(0, str(task))
    import shout_task

    rows = [dict(e) for e in SHOUTS]
    tp = BootstrapFinetune(metric=is_loud, teacher_settings=dict(lm=shouting_teacher()))
    tp.compile(shout_task.Shout(), trainset=rows, inputs=["word"], target=llama, bsize=5, training=dict(patience=2), display=False)
    job = tp.run.config("job.yaml")
    assert job == job | {"student": "bsft_nb.lessons:Shout", "metric": "bsft_nb.lessons:is_loud", "inputs": ["word"], "bsize": 5, "patience": 2} and "trainset" not in job
    assert main(["resume", tp.run.id]) == 2 and "does not name trainset" in capsys.readouterr().err
    assert main(["compile", "job.yaml", "--trainset", "words.csv", "--lm", "shout_task:teacher", "--json"]) == 0


def test_answers_of_a_file_are_asked_once_and_in_order(task, llama, capsys, monkeypatch):
    tp = BootstrapFinetune(metric=is_loud, teacher_settings=dict(lm=shouting_teacher()))
    tp.compile(dspy.Predict("word -> loud"), trainset=SHOUTS, target=llama, bsize=5, display=False)
    capsys.readouterr()
    assert main(["predict", "--data", "words.csv", "--out", "out.jsonl", "--json"]) in (0, 1)
    first = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [r["inputs"]["word"] for r in rows] == [e.word for e in SHOUTS] and all(("outputs" in r) != ("error" in r) for r in rows)
    assert (first["rows"], first["asked"]) == (10, 10) and first["failed"] == sum("error" in r for r in rows)
    Path("more.csv").write_text("loud,word\n,new\n" + "\n".join(f"{e.loud},{e.word}" for e in SHOUTS[::-1]))
    main(["predict", tp.run.id, "--data", "more.csv", "--out", "out.jsonl", "--json"])
    assert json.loads(capsys.readouterr().out)["asked"] == 1 + first["failed"]
    again = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert {r["key"]: r.get("outputs") for r in rows if "outputs" in r}.items() <= {r["key"]: r.get("outputs") for r in again}.items()
    assert main(["predict", "--data", "words.csv", "--inputs", "words"]) == 2 and "no column 'words'" in capsys.readouterr().err


def test_a_program_is_not_imported_because_a_folder_names_it(task, capsys, llama):
    assert main(["compile", "job.toml", "--json"]) == 0
    sys.modules.pop("shout_task")
    capsys.readouterr()
    assert main(["predict", "--data", "words.csv"]) == 2
    assert "--program shout_task:Shout" in capsys.readouterr().err and "shout_task" not in sys.modules
    main(["predict", "--data", "words.csv", "--program", "shout_task:Shout"])
    assert [json.loads(line)["row"] for line in capsys.readouterr().out.splitlines()] == list(range(10))


def test_no_text_of_a_run_reaches_the_terminal_as_a_command(tmp_path, capsys):
    evil = "\x1b[2J\x1b]0;title\x07\r[bold]"
    folder = RunFolder(home() / "runs" / "qa-1")
    folder.update(status="failed", program=evil, target=evil, created=evil, error=evil)
    folder.log.emit("run", id=evil, note=evil)
    folder.log.emit("warn", note=evil)
    folder.log.emit("score", which=evil, score=0.5)
    for command in (["runs"], ["status"], ["show"], ["runs", "--json"], ["status", "--json"], ["show", "--json"], ["compare"], ["stop"], ["resume"]):
        main(command)
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err, command


def test_a_terminal_gets_a_picture_and_a_pipe_lines(monkeypatch, capsys):
    folder = RunFolder(home() / "runs" / "qa-1")
    folder.update(status="stopped", created="2026-01-01 12:00:00")
    folder.log.emit("run", id="qa-1", note="run qa-1")
    folder.log.emit("bootstrap", examples=4)
    for _ in range(4):
        folder.log.emit("trace", kept=True, reason="", again=False)
    assert main(["follow"]) == 0 and "\x1b" not in capsys.readouterr().out
    theirs, ours = os.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    with open(ours, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert main(["follow"]) == 0 and main(["runs"]) == 0
    shown = os.read(theirs, 1 << 16).decode()
    os.close(theirs)
    assert "\x1b[" in shown and "4 attempts, 4 accepted" in shown and "━" in shown and "qa-1" in shown
