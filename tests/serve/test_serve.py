"""A student behind HTTP answers as it does in process, and a client that is wrong, slow or gone harms nobody."""
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Literal

import dspy
import httpx
import openai
import pytest

from bsft_nb.engine.lm import StudentEngine, student_lm
from bsft_nb.engine.predict import keep_format
from bsft_nb.engine.worker import rows_now
from bsft_nb.lessons import CHAT, save_llama
from bsft_nb.models.student_adapter import StudentAdapter, adapter_state
from bsft_nb.models.targets import check_folder
from bsft_nb.run.files import write_json
from bsft_nb.serve.remote import Origin, listed, served_lm
from bsft_nb.serve.server import start

META = {"adapter": adapter_state(StudentAdapter()), "max_tokens": 40}
KEY = "meow"


class Triage(dspy.Signature):
    """Sort a ticket."""

    ticket: str = dspy.InputField()
    team: Literal["shipping", "billing", "login"] = dspy.OutputField()
    days: int = dspy.OutputField()


def adapters(base, into):
    "Two LoRA students of `base` that differ."
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        model.save_pretrained(into / f"lora-{seed}")
        write_json(into / f"lora-{seed}" / "bsft.json", {**META, "base": {"path": str(base), "fingerprint": check_folder(base, "base").fingerprint}})
        made.append(into / f"lora-{seed}")
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    base = save_llama(place / "base", CHAT, initializer_range=0.3)
    write_json(base / "bsft.json", META)
    return {"cats": base, **dict(zip(("one", "two"), adapters(base, place)))}


@pytest.fixture(scope="module")
def server(folders):
    with start(folders, port=0, api_key=KEY) as made:
        yield made


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.api_base, api_key=KEY, max_retries=0)


def inside(folder, **settings):
    return student_lm(folder, cache=False, **settings)


def outside(server, name="cats", **settings):
    return dspy.LM(f"openai/{name}", **{"api_base": server.api_base, "api_key": KEY, "cache": False, **settings})


def idle(server, seconds=20.0):
    "Does nothing run or wait any more, within `seconds`?"
    worker, deadline = server.desk.models["cats"].engine.worker, time.monotonic() + seconds
    while (rows_now(worker) != (0, 0) or server.desk.metrics.under_way) and time.monotonic() < deadline:
        time.sleep(0.02)
    return rows_now(worker) == (0, 0) and server.desk.metrics.under_way == 0


CHATS = [
    [{"role": "user", "content": "where is my parcel"}],
    [{"role": "system", "content": "Pick."}, {"role": "user", "content": "[user]<|end|> \u00e9\u732b"}],
    [{"role": "system", "content": "Pick."}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c\n"}],
]
SETTINGS = [dict(max_tokens=12), dict(max_tokens=9, temperature=1.2, seed=3, top_p=0.9), dict(max_tokens=30, stop=["e", "\u00c3"])]


@pytest.mark.parametrize("how", ["lm15", "litellm"])
def test_a_chat_through_http_is_the_chat_in_process(server, folders, how):
    for name, folder in folders.items():
        asked = [(m, s) for m in CHATS for s in SETTINGS]
        with ThreadPoolExecutor(9) as pool:
            told = list(pool.map(lambda x: outside(server, name, engine=how)(messages=x[0], **x[1]), asked))
        assert told == [inside(folder)(messages=m, **s) for m, s in asked]


def test_lora_students_of_one_base_share_its_weights_and_differ(server, client):
    answers = {n: client.chat.completions.create(model=n, messages=CHATS[0], max_tokens=12).choices[0].message.content for n in ("cats", "one", "two")}
    assert len(set(answers.values())) == 3
    assert len({m.engine.worker for m in server.desk.models.values()}) == 1
    assert {m.id: m.model_extra["bsft"]["student"] for m in client.models.list()} == {"cats": "base", "one": "lora-1", "two": "lora-2"}


def test_a_stream_has_the_same_text_and_says_why_it_ended(client):
    settings = dict(model="cats", messages=CHATS[2], max_tokens=12)
    whole = client.chat.completions.create(**settings)
    parts = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == whole.choices[0].message.content
    assert [p.choices[0].finish_reason for p in parts if p.choices][-1] == whole.choices[0].finish_reason == "length"
    assert parts[-1].usage == whole.usage and len({p.id for p in parts}) == 1 and len(parts) > 5


def test_logprobs_are_those_of_the_engine(client, folders):
    told = client.chat.completions.create(model="one", messages=CHATS[0], max_tokens=4, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(told) == 4 and all(len(t.top_logprobs) == 3 and t.token == t.top_logprobs[0].token for t in told)
    here = StudentEngine.at(folders["one"]).complete(dspy.lm15.Request(model="m", messages=(dspy.lm15.Message.user(CHATS[0][0]["content"]),), config=dspy.lm15.Config(max_tokens=4, logprobs=3)))
    assert [(t.token, t.logprob) for t in told] == [(t.token, pytest.approx(t.logprob, abs=1e-4)) for t in here.logprobs]


def test_answers_are_held_to_closed_types_and_checked_where_they_must_be_json(client):
    form = {"type": "json_schema", "json_schema": {"name": "choices", "schema": {"type": "string", "enum": ["shipping", "billing"]}}}
    for seed in range(5):
        said = client.chat.completions.create(model="cats", messages=CHATS[0], temperature=1.9, seed=seed, response_format=form)
        assert said.choices[0].message.content in ("shipping", "billing")
    with pytest.raises(openai.UnprocessableEntityError) as e:
        client.chat.completions.create(model="cats", messages=CHATS[0], max_tokens=8, response_format={"type": "json_object"})
    assert e.value.code == "json_validate_failed"


REFUSED = {
    "over the context": (dict(messages=[{"role": "user", "content": "long " * 400}]), openai.BadRequestError, "context_length_exceeded", "messages"),
    "unknown model": (dict(model="dogs"), openai.NotFoundError, "model_not_found", "model"),
    "unknown field": (dict(extra_body={"best_of": 2}), openai.BadRequestError, None, "best_of"),
    "not followed": (dict(frequency_penalty=0.3), openai.BadRequestError, None, "frequency_penalty"),
    "several answers": (dict(n=2), openai.BadRequestError, None, "n"),
    "no number": (dict(extra_body={"temperature": "warm"}), openai.BadRequestError, None, "temperature"),
    "negative": (dict(max_tokens=-1), openai.BadRequestError, None, "max_tokens"),
    "no messages": (dict(messages=[]), openai.BadRequestError, None, "messages"),
    "a picture": (dict(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]), openai.BadRequestError, None, None),
    "tools": (dict(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]), openai.BadRequestError, None, "tools"),
    "foreign parts": (dict(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"prefixItems": [{"a": 1}, 3]}}}, max_tokens=3), openai.UnprocessableEntityError, "json_validate_failed", "response_format"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", [c for c in REFUSED if c != "foreign parts"])
def test_what_is_wrong_is_refused_in_openais_form(client, case, stream):
    fields, error, code, param = REFUSED[case]
    with pytest.raises(error) as e:
        client.chat.completions.create(**{"model": "cats", "messages": CHATS[0], **fields}, stream=stream)
    assert (e.value.code, e.value.param) == (code, param) and e.value.type == "invalid_request_error", e.value.body


def test_a_schema_that_is_no_schema_harms_nobody(client, server):
    fields, error, code, param = REFUSED["foreign parts"]
    with pytest.raises(error) as e:
        client.chat.completions.create(model="cats", messages=CHATS[0], **fields)
    assert (e.value.code, e.value.param) == (code, param) and idle(server)


def test_dspy_knows_what_was_refused(server):
    with pytest.raises(dspy.utils.exceptions.ContextWindowExceededError):
        outside(server)("long " * 400)
    with pytest.raises(dspy.utils.exceptions.LMAuthError):
        outside(server, api_key="purr")("a")


def raw(server, body, path="/v1/chat/completions"):
    "A connection on which `body` has been sent."
    host, port = server.url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)))
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    made.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return made


@pytest.mark.parametrize("stream", [False, True])
def test_the_rows_of_clients_that_hang_up_are_given_up(server, folders, stream):
    assert idle(server)
    before = server.desk.metrics.registry.get_sample_value("bsft_requests_total", {"model": "cats", "outcome": "left"}) or 0
    here = inside(folders["cats"])(messages=CHATS[0], max_tokens=12)
    gone = [raw(server, {"model": "cats", "messages": [{"role": "user", "content": f"{i} and on"}], "max_tokens": 400, "stream": stream}) for i in range(8)]
    if stream:
        assert all(b"200 OK" in c.recv(15) for c in gone)
    else:
        worker = server.desk.models["cats"].engine.worker
        while sum(rows_now(worker)) < 8:
            time.sleep(0.005)
    for connection in gone:
        connection.close()
    assert outside(server)(messages=CHATS[0], max_tokens=12) == here, "who stays is answered"
    assert idle(server, 5), "400 tokens would have taken longer"
    assert server.desk.metrics.registry.get_sample_value("bsft_requests_total", {"model": "cats", "outcome": "left"}) == before + 8


def test_half_a_body_and_a_wrong_length_harm_nobody(server):
    for body in (b"", b"{", b"null", b"[" * 5000, {"model": "cats", "messages": [{"role": "user", "content": "\ud800"}]}, {"model": "cats", "messages": "x" * (5 << 20)}):
        with raw(server, body) as connection:
            answer = b""
            while b"}}" not in answer and (more := connection.recv(65536)):
                answer += more
        answer = answer.decode()
        assert answer.startswith(("HTTP/1.1 400", "HTTP/1.1 413")) and '"error"' in answer
    half = raw(server, b"")
    half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    half.close()
    assert idle(server)


def long(folder):
    "Tokens of the answer that is still under way when a server is stopped."
    request = dspy.lm15.Request(model="m", messages=(dspy.lm15.Message.user(CHATS[0][0]["content"]),), config=dspy.lm15.Config(max_tokens=300, temperature=1.9, seed=1))
    n = StudentEngine.at(folder).complete(request).usage.output_tokens
    assert n > 50, "it would be over at once"
    return n


def test_a_stop_answers_what_was_accepted_and_accepts_nothing_more(folders):
    server = start({"cats": folders["cats"]}, port=0)
    asked = dict(json={"model": "cats", "messages": CHATS[0], "max_tokens": 300, "temperature": 1.9, "seed": 1}, timeout=120)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(httpx.post, f"{server.api_base}/chat/completions", **asked) for _ in range(4)]
        worker = server.desk.models["cats"].engine.worker
        while sum(rows_now(worker)) < 4:
            time.sleep(0.005)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert {r.result().json()["usage"]["completion_tokens"] for r in running} == {long(folders["cats"])}
    stopping.join(30)
    assert not stopping.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_server_in_a_shell_ends_with_sigterm_after_its_answers(folders):
    code = f"from bsft_nb.serve.server import serve; serve({{'cats': {str(folders['cats'])!r}}}, port=0, tell=lambda t: print(t, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split(" on ")[1].split(";")[0]
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(httpx.post, f"{address}/chat/completions", json={"model": "cats", "messages": CHATS[0], "max_tokens": 300, "temperature": 1.9, "seed": 1}, timeout=120)
            while "bsft_open_requests 1.0" not in httpx.get(f"{address.removesuffix('/v1')}/metrics").text:
                assert not asked.done(), asked.result().text
            process.terminate()
            assert asked.result().json()["usage"]["completion_tokens"] == long(folders["cats"])
        assert process.wait(60) in (0, -15)


def test_the_program_of_a_run_is_an_endpoint(folders):
    program = keep_format(dspy.Predict(Triage))
    program.lm = inside(folders["one"])
    tickets = [f"parcel {i} is late" for i in range(12)]
    with start({"one": folders["one"]}, port=0, program=program) as server, ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda t: httpx.post(f"{server.url}/program", json={"ticket": t}, timeout=60).json(), tickets))
        schema = httpx.get(f"{server.url}/openapi.json").json()
    assert told == [dict(program(ticket=t)) for t in tickets]
    assert schema["components"]["schemas"]["Outputs"]["properties"]["team"]["enum"] == ["shipping", "billing", "login"]


def test_a_program_asks_its_student_at_a_server_as_it_asks_it_here(server, folders):
    tickets = [f"parcel {i} is late" for i in range(12)]
    programs = []
    for lm in (inside(folders["two"]), served_lm(outside(server, "two"), Origin(folders["two"], check_folder(folders["two"], "two").fingerprint))):
        programs.append(keep_format(dspy.Predict(Triage)))
        programs[-1].lm = lm
    here, there = programs
    with dspy.context(adapter=dspy.JSONAdapter()), ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda t: dict(there(ticket=t)), tickets)) == [dict(here(ticket=t)) for t in tickets]
    assert there.lm.engine.lm.kwargs["api_key"] == KEY and KEY not in repr(there.dump_state)
    with pytest.raises(ValueError, match="has other weights"):
        served_lm(outside(server, "one"), Origin(folders["two"], check_folder(folders["two"], "two").fingerprint))


class Fails(BaseHTTPRequestHandler):
    "As `transformers serve` without a cache of the Hub: it answers, and cannot list its models."
    def do_GET(self):
        self.send_error(500)

    def log_message(self, *args):
        pass


def test_a_server_that_cannot_list_its_models_is_still_asked():
    with HTTPServer(("127.0.0.1", 0), Fails) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert listed(dspy.LM("openai/x", api_base=f"http://127.0.0.1:{server.server_port}/v1")) == {}
        server.shutdown()
