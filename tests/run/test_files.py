"""Files as they are found: cut off, half copied, another user's, of a later version; disks without room."""
import json
import logging
import os
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from bsft_nb import cli
from bsft_nb.optimizer.run import Run
from bsft_nb.results.table import Table, write_table
from bsft_nb.results.table_file import COLUMNS
from bsft_nb.run import digests as contents
from bsft_nb.run import events as events_room
from bsft_nb.run.events import EventLog, Tail
from bsft_nb.run.files import (
    Damaged,
    append_line,
    read_json,
    read_lines,
    replacing,
    write_json,
)
from bsft_nb.run.folder import RunFolder, find_run, home, list_runs
from bsft_nb.run.progress import reduce_all, state_of
from bsft_nb.run.views import TextProgress
from bsft_nb.teacher.ledger import Ledger, Trace, load_traces

UNREADABLE = [b"", b"   \n", b"[1]", b"null", b'"run"', b"7", b'{"status": "run', b"\xff\xfe\x00", bytes(300), b"{]", b'{"status": 3}', b'{"status": "running", "worker": "me"}', b'{"models": ["model"]}', b"[" * 100_000]


def runs(*names):
    for name in names:
        RunFolder(home() / "runs" / name).update(status="finished", target="t", created=f"2026-01-0{len(name)}")


@pytest.mark.parametrize("content", UNREADABLE, ids=lambda c: repr(c[:20]))
def test_an_unreadable_run_hides_no_other_and_says_what_to_do(content, capsys):
    runs("a", "bb", "hurt")
    (home() / "runs" / "hurt" / "run.json").write_bytes(content)
    rows = {r["id"]: r for r in list_runs()}
    assert {k: r["status"] for k, r in rows.items()} == {"a": "finished", "bb": "finished", "hurt": "unreadable"}
    assert "run.json cannot be used" in rows["hurt"]["error"] and "compile again" in rows["hurt"]["error"]
    assert cli.main(["runs"]) == 0 and "run.json cannot be used" in capsys.readouterr().out
    folder = find_run("hurt")
    assert Run(folder).status == "unreadable" and Run(folder).scores == {}
    folder.update(status="running")
    assert folder.info == {"status": "running"} and (folder / "run.json.damaged").read_bytes() == content


def test_a_job_file_that_is_damaged_is_nobody_who_trains():
    runs("a")
    for content in UNREADABLE:
        (home() / "runs" / "a" / "job.json").write_bytes(content)
        assert not find_run("a").trains and find_run("a").status == "finished"


@contextmanager
def nobody(path):
    "Within, this process has no rights to `path`, nor has it any special ones."
    path.chmod(0)
    euid = os.geteuid()
    if euid == 0:
        for parent in path.parents:
            with suppress(PermissionError):
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(euid)
        path.chmod(0o700)


@pytest.mark.parametrize("what", ["folder", "run.json"])
def test_a_run_of_another_user_is_listed_with_the_reason(what):
    runs("mine", "theirs")
    place = home() / "runs" / "theirs"
    with nobody(place if what == "folder" else place / "run.json"):
        (status,) = [r for r in list_runs() if r["id"] == "theirs"]
        assert status["status"] == "unreadable" and "Permission denied" in status["error"] and "ask its owner" in status["error"]
        assert find_run("theirs").status == "unreadable"


def test_a_working_folder_that_cannot_be_written_names_bsft_home(tmp_path, monkeypatch):
    (tmp_path / "ro").mkdir()
    monkeypatch.setenv("BSFT_HOME", str(tmp_path / "ro" / "home"))
    with nobody(tmp_path / "ro"), pytest.raises(PermissionError, match="cannot be made .*BSFT_HOME"):
        RunFolder(home() / "runs" / "x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be made .*BSFT_HOME"):
        RunFolder(tmp_path / "file" / "runs" / "x")


LATER = [
    {"kind": "telepathy", "t": 1.0, "data": {"note": "of a later version"}},
    {"kind": "train", "t": 2.0, "data": {"model": "m", "step": 1, "steps": 2, "loss": 1.0}, "host": "h", "id": 7},
    {"kind": "train", "t": 3.0, "data": {"model": "m", "step": "first", "steps": {}, "loss": 2.0}},
    {"kind": "trace", "t": 4.0, "data": {"kept": True, "cost": "free", "tokens": ["many"]}},
    {"kind": "score", "t": 4.0, "data": {"which": ["tuned"], "score": 1}},
    {"kind": "data", "t": 4.5, "data": {"funnel": [1, 2]}},
    {"kind": "trace", "t": 5},
    {"kind": "trace", "t": "now", "data": {}},
    {"kind": 5, "t": 5.0, "data": {}},
    {"kind": "trace", "t": 5.0, "data": ["kept"]},
    [1],
    "trace",
    None,
    {},
]


def test_events_of_a_later_version_are_read_as_far_as_they_can_be(tmp_path, capsys):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("run", id="r")
    for row in LATER:
        append_line(log.path, row)
    with open(log.path, "ab") as f:
        f.write(b'{"kind": "tr\n\0\0\0\0\n\xff\xfe\n')
    log.emit("trace", kept=True)
    events = log.read()
    assert [e.kind for e in events[:3]] == ["run", "telepathy", "train"] and events[-1].data == {"kept": True}
    state = state_of(log.path)
    assert state == reduce_all(events) and state.kept >= 1 and state.run == "r"
    assert Run(RunFolder(tmp_path)).funnel() == {}
    with pytest.raises(ValueError, match="event kind 'telepathy' is not one of"):
        log.emit("telepathy")


def test_a_log_is_parsed_once_however_often_it_is_looked_at(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "events.jsonl")
    for i in range(200):
        log.emit("trace", kept=bool(i % 2))
    parsed, of = [], events_room.event_of
    monkeypatch.setattr(events_room, "event_of", lambda row: parsed.append(row) or of(row))
    for _ in range(5):
        assert state_of(log.path).tried == 200
    assert len(parsed) == 200
    log.emit("trace", kept=True)
    assert state_of(log.path).kept == 101 and len(parsed) == 201
    reader = EventLog(log.path)
    assert len(reader.read()) == len(reader.read()) == 201 and len(parsed) == 402
    assert reader.read() is not reader.read(), "who changes what was read changes nothing here"


@pytest.mark.parametrize("change", ["cut", "replaced", "replaced by a longer one", "rewritten in place"])
def test_a_log_that_is_another_one_is_read_from_its_start(tmp_path, change):
    path = tmp_path / "events.jsonl"
    log, tail = EventLog(path), Tail(path)
    for i in range(3):
        log.emit("trace", kept=True, n=i)
    assert len(tail()) == len(log.read()) == 3 and state_of(path).tried == 3
    other = b'{"kind": "run", "t": 1.0, "data": {"id": "other", "note": "%s"}}\n' % (b"x" * (900 if "longer" in change or "place" in change else 0))
    if change == "rewritten in place":
        path.write_bytes(other)
    elif change == "cut":
        os.truncate(path, 0)
        append_line(path, json.loads(other))
    else:
        path.unlink()
        path.write_bytes(other)
    assert [e.data["id"] for e in tail()] == ["other"] and tail.restarts == 1
    assert [e.data["id"] for e in log.read()] == ["other"] and (state_of(path).run, state_of(path).tried) == ("other", 0)


HURT_LINES = [[1], {}, "x", None, {"key": "0a"}, {"key": "xyz", "example": "e", "attempt": 0}, {"key": 5, "example": "e", "attempt": 0}, {"example": "e"},
              {"key": "0a", "example": "e", "attempt": "first"}, {"key": "0a", "example": "e", "attempt": 0, "calls": {"a": 1}}, {"key": "0a", "example": "e", "attempt": 0, "calls": [{"predictor": "p", "inputs": 1, "outputs": {}}]}]


def test_ledger_lines_of_another_shape_cost_themselves_alone(tmp_path, caplog):
    path = tmp_path / "traces.jsonl"
    ledger = Ledger(path)
    ledger.add(Trace("first", 0, key="0a"))
    ledger.add_call("0a", {"attempt": "0a", "call": "c", "outputs": ["4"]})
    for row in HURT_LINES:
        append_line(path, row)
        append_line(ledger.calls.path, row)
    ledger.add(Trace("last", 0, key="0b"))
    ledger.close()
    with caplog.at_level(logging.WARNING):
        again = Ledger(path)
    assert again.find("0a")[1].example == "first" and again.find("0b")[1].example == "last" and len(again.calls_of("0a")) == 1
    assert [t.example for t in load_traces(path) if t.key in ("0a", "0b")] == ["first", "last"] and "left out" in caplog.text
    again.close()


HURT_ROWS = [b"[1]", b"{}", b'{"columns": {}}', b'{"inputs": {}, "labels": {}, "columns": []}', b'{"inputs": {}, "labels": {}, "columns": {"tuned": 5}}', b'{"inputs": {}, "labels": {}, "columns": {"tuned": {"outputs": {}, "score": "high"}}}', b"\0\0", b'{"inputs"']


@pytest.mark.parametrize("hurt", HURT_ROWS, ids=repr)
def test_a_damaged_row_of_a_table_costs_itself_alone(tmp_path, hurt):
    answers = {c: {"outputs": {"a": "x"}, "calls": [], "score": 1.0, "error": None} for c in COLUMNS}
    rows = [{"example": str(i), "run": "r", "inputs": {"q": f"q{i}"}, "labels": {}, "columns": answers} for i in range(3)]
    path = tmp_path / "compare.jsonl"
    write_table(path, rows)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + hurt + b"\n" + lines[1] + hurt + b"\n" + lines[2])
    table = Table(path)
    assert [r["inputs"]["q"] for r in table.page(table.select())] == ["q0", "q1", "q2"]
    assert table.select(search="q2").tolist() == [2] and table.values("inputs.q") == ["q0", "q1", "q2"]


def test_a_table_that_cannot_have_its_index_beside_it_opens(tmp_path):
    write_table(tmp_path / "compare.jsonl", [])
    (tmp_path / "compare.index.npz").unlink()
    (tmp_path / "compare.index.npz").mkdir()
    assert len(Table(tmp_path / "compare.jsonl")) == 0


TEXTS = ["cut emoji \ud83d", "\udc80\udcff bytes of a file's name", "back\\slash \\\ud800", "\ud800" * 5, "a\u2028b\x00c\x85", "\udfff\ud800"]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_any_text_is_written_and_comes_back_by_any_reader(tmp_path, text, capsys):
    write_json(tmp_path / "a.json", {text: [text]})
    append_line(tmp_path / "a.jsonl", {text: text})
    log = EventLog(tmp_path / "events.jsonl")
    log.subscribe(TextProgress(every=0))
    log.emit("warn", note=text)
    ledger = Ledger(tmp_path / "t.jsonl")
    ledger.add(Trace("e", 0, inputs={"q": text}, error=text, key="0a"))
    assert read_json(tmp_path / "a.json") == {text: [text]} and read_lines(tmp_path / "a.jsonl") == [{text: text}]
    assert log.read()[0].data["note"] == text and ledger.find("0a")[1].inputs == {"q": text}
    for path in tmp_path.iterdir():
        path.read_bytes().decode("utf-8")  # also those that know no surrogates
    assert len(log.subscribers) == 1, "the progress line was not dropped"


def test_a_terminal_that_knows_no_unicode_gets_the_progress_too():
    out = subprocess.run([sys.executable, "-c", "from bsft_nb.run.views import TextProgress; from bsft_nb.run.events import Event; TextProgress(every=0)(Event('warn', 1.0, {'note': 'naïve → \\ud83d'}))"], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert out.returncode == 0 and b"na\\xefve \\u2192 \\ud83d" in out.stdout, out.stderr


@contextmanager
def little_room(tmp_path, kilobytes):
    "A folder on a disk of its own."
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a disk can only be made by root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


WRITERS = {
    "write_json": lambda d: write_json(d / "run.json", {"x": "y" * 5000}),
    "append_line": lambda d: append_line(d / "events.jsonl", {"x": "y" * 5000}),
    "event": lambda d: EventLog(d / "events.jsonl").emit("warn", note="y" * 5000),
    "ledger": lambda d: Ledger(d / "t.jsonl").add(Trace("e", 0, inputs={"q": "y" * 5000}, key="0a")),
    "table": lambda d: write_table(d / "compare.jsonl", [{"inputs": {"q": "y" * 5000}, "labels": {}, "columns": {}}]),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_that_names_the_file_and_the_way_out(tmp_path, writer):
    with little_room(tmp_path, 16) as disk:
        (disk / "other").write_bytes(bytes(4096 * 4))  # full to the brim
        with pytest.raises(OSError, match=r"disk/[\w.]+ cannot be written \(No space left on device\): make room there, or set BSFT_HOME") as e:
            WRITERS[writer](disk)
        assert e.value.errno == 28 and not list(disk.glob(".*.tmp"))


def test_what_was_there_stays_where_there_is_no_room_for_the_new(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from bsft_nb.run.files import append_line, read_json, read_lines, write_json
d = Path(sys.argv[1])
write_json(d / "a.json", 1); append_line(d / "a.jsonl", {"n": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for work in (lambda: write_json(d / "a.json", "x" * 9000), lambda: append_line(d / "a.jsonl", {"n": "x" * 9000})):
    try: work()
    except OSError as e: print(e)
append_line(d / "b.jsonl", {"n": 2})
print(read_json(d / "a.json"), read_lines(d / "a.jsonl"), sorted(p.name for p in d.iterdir()))
"""
    out = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert out.stdout.count("): make room there, or set BSFT_HOME") == 2, out
    assert "1 [{'n': 1}] ['a.json', 'a.jsonl', 'b.jsonl']" in out.stdout


def test_data_is_its_owners_alone_and_a_file_that_was_shared_stays_so(tmp_path):
    before = os.umask(0)
    try:
        folder = RunFolder(tmp_path / "new" / "runs" / "r")
        folder.update(status="finished")
        folder.log.emit("warn", note="secret")
        folder.stop_signal.request()
        Ledger(folder / "t.jsonl")
        write_table(folder / "compare.jsonl", [])
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.path.iterdir()}
        assert len(modes) >= 6 and set(modes.values()) == {0o600}, modes
        assert {stat.S_IMODE(p.stat().st_mode) for p in (folder.path, folder.path.parent, tmp_path / "new")} == {0o700}
        (folder / "run.json").chmod(0o644)
        folder.update(status="stopped")
        assert stat.S_IMODE((folder / "run.json").stat().st_mode) == 0o644
        write_json(tmp_path / "model.json", {}, private=False)
        assert stat.S_IMODE((tmp_path / "model.json").stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_leftovers_of_kills_go_by_age_and_nothing_else_does(tmp_path):
    old = [".run.json.123-0a1b2c3d.tmp", "run.jsonab12cd34.tmp", "compare.rows.tmp", "traces.jsonl.99.part", "report.htmlabcdefgh.tmp"]
    folders = [".model.oldabcd1234", ".model.99-0a1b2c3d.tmp", "step-4.tmpabcd1234"]
    mine = ["notes.tmp", "run.json", "data.part", ".hidden", "model", "step-4", "part.tmp.txt"]
    for name in (*old, *mine):
        (tmp_path / name).write_text("x")
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("x")
    contents.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(old + folders + mine), "somebody may be at it"
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    contents.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(mine)
    contents.sweep(tmp_path / "gone")


def test_digests_see_any_bit_and_read_a_file_once(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(40 << 20))
    known = contents.digests(tmp_path)
    for place in (0, 3 << 20, (40 << 20) - 1):  # between the samples of a fingerprint, too
        with open(path, "r+b") as f:
            f.seek(place)
            f.write(b"\1")
        assert contents.faults(tmp_path, known) == ["model.safetensors is damaged"]
        with open(path, "r+b") as f:
            f.seek(place)
            f.write(b"\0")
        assert contents.faults(tmp_path, known) == []
    os.truncate(path, 5)
    assert contents.faults(tmp_path, known) == ["model.safetensors is damaged"]
    path.unlink()
    assert contents.faults(tmp_path, known) == ["model.safetensors is missing"]


def test_two_writers_of_one_file_leave_one_of_them_whole(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as two:
        one.write(b"one")
        two.write(b"two")
    assert (tmp_path / "a").read_bytes() == b"one" and os.listdir(tmp_path) == ["a"]


def test_damage_is_told_from_absence(tmp_path):
    assert read_json(tmp_path / "none.json", 5) == 5
    (tmp_path / "dir.json").mkdir()
    for path, content in ((tmp_path / "a.json", b"{"), (tmp_path / "b.json", b"\x80abc")):
        path.write_bytes(content)
        with pytest.raises(Damaged, match=f"{path.name} cannot be used .*: do this"):
            read_json(path, 5, remedy="do this")
    with pytest.raises(OSError, match="dir.json cannot be read"):
        read_json(tmp_path / "dir.json")
