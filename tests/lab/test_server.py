"""The server extension in a real Jupyter server: what it answers, whom, and what nobody can reach."""
import asyncio
import json
import time
from pathlib import Path

import pytest
from hostile import HOSTILE
from tornado.httpclient import HTTPClientError

from bsft_nb.lab.places import key_of
from bsft_nb.run.files import append_line, write_json
from bsft_nb.run.folder import RunFolder

pytest_plugins = ["pytest_jupyter.jupyter_server"]


@pytest.fixture
def jp_server_config():
    return {"ServerApp": {"jpserver_extensions": {"bsft_nb": True}}}


@pytest.fixture
def home(jp_root_dir, tmp_path, monkeypatch):
    "The server's own folder of runs, and a trash of its own."
    monkeypatch.setenv("BSFT_HOME", str(jp_root_dir / ".bsft"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return jp_root_dir / ".bsft"


def make_run(home: Path, name: str, status: str = "finished", **info) -> RunFolder:
    run = RunFolder(home / "runs" / name)
    write_json(run / "run.json", {"status": status, "program": "Shout", "target": "/x/base", **info})
    run.log.emit("run", id=name)
    return run


def of(run: RunFolder, *parts: str) -> tuple:
    return ("bsft", "api", "runs", key_of(run.path.resolve()), *parts)


async def refusal(request) -> tuple[int, str]:
    with pytest.raises(HTTPClientError) as e:
        await request
    return e.value.code, json.loads(e.value.response.body or b"{}").get("message", "") if e.value.response else ""


async def test_runs_are_listed_and_one_is_read(home, jp_fetch):
    run = make_run(home, "shout-1", scores={"tuned": 0.5, "teacher": 1.0})
    run.log.emit("train", model="say", step=2, steps=4, loss=1.5)
    cards = json.loads((await jp_fetch("bsft", "api", "runs")).body)["cards"]
    assert [(c["id"], c["status"], c["scores"]["tuned"]["said"], c["target"]) for c in cards] == [("shout-1", "finished", "0.5", "base")]
    answer = await jp_fetch(*of(run))
    view = json.loads(answer.body)
    assert view["state"]["curves"] == {"say": {"loss": [[2, 1.5]]}} and [s["name"] for s in view["steps"]] == ["Bootstrap", "Data", "Start", "Train", "Score"]
    assert answer.headers["Content-Type"].startswith("application/json") and answer.headers["X-Content-Type-Options"] == "nosniff"
    events = json.loads((await jp_fetch(*of(run, "events"), params={"at": "0"})).body)
    assert [e["kind"] for e in events["events"]] == ["run", "train"]
    found = json.loads((await jp_fetch("bsft", "api", "find", params={"path": ".bsft/runs/shout-1/run.json"})).body)
    assert found == {"key": key_of(run.path.resolve())}


async def test_a_run_is_stopped_only_while_it_runs(home, jp_fetch):
    run = make_run(home, "live-1", "running", worker={"began": time.time()})
    presence = run.presence("compile")
    presence.acquire(key="k", began=time.time())
    assert json.loads((await jp_fetch(*of(run, "stop"), method="POST", body="")).body) == {"asked": True} and (run / "control").exists()
    code, why = await refusal(jp_fetch(*of(run), method="DELETE"))
    assert code == 400 and "is running: stop it first" in why and run.path.exists()
    presence.release()
    (run / "control").unlink()
    code, why = await refusal(jp_fetch(*of(run, "stop"), method="POST", body=""))
    assert code == 400 and "does not run: it is died" in why and not (run / "control").exists()


async def test_a_deleted_run_lies_in_the_trash(home, jp_fetch, tmp_path):
    run = make_run(home, "gone-1")
    await jp_fetch(*of(run), method="DELETE")
    assert not run.path.exists() and list((tmp_path / "data/Trash/files").glob("gone-1*/run.json"))
    assert (await refusal(jp_fetch(*of(run))))[0] == 404


@pytest.mark.parametrize("parts", [("..", "..", "etc"), ("%2e%2e", "x"), ("%2Fetc%2Fpasswd",), ("0" * 16,), ("0" * 16, "report"), ("0" * 16, "attempts", "3")])
async def test_nothing_outside_is_reached_by_name(home, jp_fetch, parts):
    make_run(home, "shout-1")
    with pytest.raises(HTTPClientError) as e:
        await jp_fetch("bsft", "api", "runs", *parts)
    assert e.value.code == 404


@pytest.mark.parametrize("path", ["../secret/run.json", "/etc/passwd", "way-out/run.json", ".bsft/runs/../../../secret", "a\0b"])
async def test_nothing_outside_is_opened_by_path(home, jp_root_dir, tmp_path, jp_fetch, path):
    write_json(jp_root_dir.parent / "secret/run.json", {"status": "finished"})
    (jp_root_dir / "way-out").symlink_to(jp_root_dir.parent / "secret")
    assert (await refusal(jp_fetch("bsft", "api", "find", params={"path": path})))[0] == 404


@pytest.mark.parametrize("name", ["run.json", "train.log", "report.html", "traces.jsonl", "compare.jsonl", "pairs", "events.jsonl"])
async def test_no_link_leads_out_of_a_run(home, tmp_path, jp_fetch, name):
    secret = tmp_path / "secret"
    secret.mkdir() if name == "pairs" else secret.write_text('{"status": "SECRET"}\n')
    run = make_run(home, "linked-1")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(secret)
    for part in ((), ("log",), ("report",), ("attempts",), ("compare",), ("pairs",), ("events",), ("settings",)):
        with pytest.raises(HTTPClientError) as e:
            await jp_fetch(*of(run, *part))
        assert e.value.code in (403, 404) and "SECRET" not in str(e.value.response.body if e.value.response else "")
    assert "SECRET" not in (await jp_fetch("bsft", "api", "runs")).body.decode()


async def test_who_is_not_logged_in_gets_nothing(home, jp_serverapp, jp_base_url, http_server_client):
    run = make_run(home, "shout-1")
    for parts, how in ((("bsft", "api", "runs"), {}), (of(run), {}), (of(run, "stop"), {"method": "POST", "body": ""}), (of(run), {"method": "DELETE"}), (("bsft", "api", "find"), {})):
        with pytest.raises(HTTPClientError) as e:
            await http_server_client.fetch(jp_base_url + "/".join(parts), follow_redirects=False, **how)
        assert e.value.code == 403
    with pytest.raises(HTTPClientError) as e:
        await http_server_client.fetch(jp_base_url + "/".join(of(run, "report")), follow_redirects=False)
    assert e.value.code in (302, 403)
    assert run.path.exists() and not (run / "control").exists()


async def test_a_request_that_another_site_made_is_refused(home, jp_serverapp, http_server_client, jp_base_url):
    "Logged in by cookie alone, without the token against forged requests."
    run, token = make_run(home, "shout-1"), jp_serverapp.identity_provider.token
    url = jp_base_url + "/".join(of(run))
    logged_in = await http_server_client.fetch(f"{url}?token={token}")
    headers = {"Cookie": "; ".join(c.split(";")[0] for c in logged_in.headers.get_list("Set-Cookie"))}
    assert (await http_server_client.fetch(url, headers=headers)).code == 200, "the cookie logs in"
    for end, how in (("", {"method": "DELETE"}), ("/stop", {"method": "POST", "body": ""})):
        with pytest.raises(HTTPClientError) as e:
            await http_server_client.fetch(url + end, headers=headers, **how)
        assert e.value.code == 403
    assert run.path.exists() and not (run / "control").exists()


async def test_the_report_can_neither_run_nor_load(home, jp_fetch):
    run = make_run(home, "shout-1")
    (run / "report.html").write_text("<script>alert(1)</script>")
    answer = await jp_fetch(*of(run, "report"))
    rule = answer.headers["Content-Security-Policy"]
    assert rule.startswith("sandbox;") and "allow-scripts" not in rule and "default-src 'none'" in rule and answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_hostile_texts_come_back_as_they_are(home, jp_fetch):
    run = make_run(home, "hostile-1", program=HOSTILE[0], error="x")
    for i, text in enumerate(HOSTILE):
        call = {"predictor": text[:50], "inputs": {"q": text}, "outputs": {"a": text}}
        append_line(run / "traces.jsonl", {"example": f"e{i}", "attempt": 0, "inputs": {"q": text}, "prediction": {"a": text}, "calls": [call], "score": 1.0, "kept": True, "reason": "", "key": f"{i:016x}"})
        run.log.emit("warn", note=text[:300])
    answer = await jp_fetch(*of(run, "attempts"), params={"size": "50"})
    page = json.loads(answer.body)
    assert page["n"] == len(HOSTILE) and answer.headers["Content-Type"].startswith("application/json") and len(answer.body) < 200_000
    assert all(r["inputs"]["q"].startswith(t[:200].encode("utf-8", "replace").decode()[:100]) for r, t in zip(page["rows"], HOSTILE, strict=True) if t.isascii())
    for i in range(len(HOSTILE)):
        one = await jp_fetch(*of(run, "attempts", str(i)))
        assert len(one.body) < 400_000
    view = json.loads((await jp_fetch(*of(run))).body)
    assert view["card"]["program"] == HOSTILE[0] and len(view["warnings"]) == len(HOSTILE)


async def test_a_request_that_makes_no_sense_says_why(home, jp_fetch):
    run = make_run(home, "shout-1")
    append_line(run / "traces.jsonl", {"example": "e", "attempt": 0, "inputs": {}, "prediction": {}, "calls": [], "key": "1" * 16, "reason": ""})
    for params, why in (({"page": "two"}, "give a whole number"), ({"sort": "x"}, "sorted by 'score'")):
        code, said = await refusal(jp_fetch(*of(run, "attempts"), params=params))
        assert code == 400 and why in said
    assert (await refusal(jp_fetch(*of(run, "pairs"))))[0] == 404
    assert (await refusal(jp_fetch(*of(run, "pairs"), params={"split": "../../x"})))[0] in (400, 404)


async def next_news(ws, part: str) -> dict:
    for _ in range(50):
        news = json.loads(await asyncio.wait_for(ws.read_message(), 10))
        if part in news:
            return news[part]
    raise AssertionError(f"no {part}")


async def test_news_come_as_they_happen(home, jp_ws_fetch):
    run = make_run(home, "live-1", "running", worker={"began": time.time()})
    presence = run.presence("compile")
    presence.acquire(key="k", began=time.time())
    ws = await jp_ws_fetch("bsft", "api", "live")
    assert [c["id"] for c in await next_news(ws, "cards")] == ["live-1"]
    key = key_of(run.path.resolve())
    await ws.write_message(json.dumps({"watch": [key, "../../etc"]}))
    assert (await next_news(ws, "views"))[key]["card"]["id"] == "live-1"
    run.log.emit("train", model="say", step=3, steps=4, loss=1.0)
    began = time.time()
    while (await next_news(ws, "views"))[key]["state"]["step"] != 3:
        pass
    assert time.time() - began < 3
    presence.release()
    run.update(status="finished")
    while (await next_news(ws, "cards"))[0]["status"] != "finished":
        pass
    ws.close()


def reader_of(jp_serverapp):
    "The process that reads, of this server."
    about = (r.target_kwargs.get("front") for rules in jp_serverapp.web_app.default_router.rules for r in getattr(rules.target, "rules", ()))
    return next(filter(None, about)).reader


async def test_a_reader_that_was_killed_is_not_missed(home, jp_root_dir, jp_fetch, jp_ws_fetch, jp_serverapp):
    run, far = make_run(home, "shout-1"), make_run(jp_root_dir / "a/b/c/d/e", "far-1")
    key = json.loads((await jp_fetch("bsft", "api", "find", params={"path": "a/b/c/d/e/runs/far-1/run.json"})).body)["key"]
    ws = await jp_ws_fetch("bsft", "api", "live")
    assert [c["id"] for c in await next_news(ws, "cards")] == ["shout-1"]
    for _ in range(2):
        before = reader_of(jp_serverapp).process
        before.kill()
        assert json.loads((await jp_fetch(*of(run))).body)["card"]["id"] == "shout-1" and reader_of(jp_serverapp).process is not before
        assert json.loads((await jp_fetch("bsft", "api", "runs", key)).body)["card"]["id"] == far.id, "opened by its path, which a new reader does not know"
        assert await next_news(ws, "first") and before.wait(5) is not None
    ws.close()


async def test_further_folders_are_looked_into_but_none_outside(home, jp_root_dir, jp_ws_fetch, jp_fetch):
    deep = make_run(jp_root_dir / "a/b/c/d/e/.bsft", "deep-1")
    make_run(jp_root_dir.parent / "outside/.bsft", "outside-1")
    ws = await jp_ws_fetch("bsft", "api", "live")
    await next_news(ws, "first")
    await ws.write_message(json.dumps({"watch": [], "folders": [str(jp_root_dir.parent / "outside"), "../outside", "a/b/c/d/e"], "every": 0.25}))
    assert [c["id"] for c in await next_news(ws, "cards")] == ["deep-1"]
    assert json.loads((await jp_fetch(*of(deep))).body)["card"]["id"] == "deep-1"
    ws.close()


async def test_the_loop_is_free_while_a_large_log_is_read(home, jp_fetch):
    run = make_run(home, "long-1")
    with open(run.log.path, "ab") as f:
        f.writelines(b'{"kind": "train", "t": 1, "data": {"model": "say", "step": %d, "steps": 100000, "loss": 1.0}}\n' % i for i in range(100_000))
    await jp_fetch("bsft", "api", "runs")
    asked, worst, shares = asyncio.ensure_future(jp_fetch(*of(run))), 0.0, []
    while not shares or shares[-1] is not None:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        worst = max(worst, time.perf_counter() - before)
        if asked.done():
            shares.append(json.loads((await asked).body)["read"])
            asked = asyncio.ensure_future(jp_fetch(*of(run)))
    await asked
    assert len(shares) > 2 and shares[0] < shares[-2] and worst < 0.2


async def test_news_are_for_who_is_logged_in(home, http_server, jp_serverapp, jp_base_url, jp_http_port):
    from tornado.websocket import websocket_connect

    with pytest.raises(HTTPClientError) as e:
        await websocket_connect(f"ws://localhost:{jp_http_port}{jp_base_url}bsft/api/live")
    assert e.value.code == 403
