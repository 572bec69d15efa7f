"""A student behind HTTP against the same student in process, a storm of clients, and a run that is moved. Last line: one JSON object.

    python tests/bench/serve.py               # 200 calls, 1,000 requests; about ten minutes on two quiet cores
    python tests/bench/serve.py --quick       # a tiny model with random weights, 48 calls, 200 requests

Everything that is timed is a process of its own: the server, its clients, and the engine that is asked in process.

- `same_as_inside`: held-out calls of a program, greedy, fp32, from 16 clients, whose parsed outputs are those in process, `of` so many
- `program_calls_per_second`: of these calls, each program in the process of its 16 threads. It has the cost of DSPy's client in it
- `requests_per_second`: the requests of those calls, always 16 at a time: `inside`, awaited in the process of the engine;
  `outside`, by a client that does no more than write bytes and read them, over connections that stay open for a round
- `throughput_ratio`: outside against inside, the median of the rounds, in which both are asked in turn; `rounds` has all
- `server_cpu_ms`: processor time of the server for a request, less that of the engine's process for the same request
- `storm`: 1,000 requests from 64 clients, of which a third hang up; over-long and malformed ones among them: how
  they ended, the server's memory after each quarter, and by how many MiB it grew over the second half
- `moved`: answers of the run after its folder was moved, and of its archive, in fresh processes under another BSFT_HOME
"""
import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import httpx
import psutil

import bsft_nb
from bsft_nb.demo.tickets import Triage, tickets
from bsft_nb.engine.lm import student_lm
from bsft_nb.engine.predict import keep_format
from bsft_nb.engine.requests import to_messages
from bsft_nb.lessons import CHAT, save_llama
from bsft_nb.models.student_adapter import StudentAdapter, adapter_state
from bsft_nb.models.targets import resolve_target
from bsft_nb.optimizer.portable import pack
from bsft_nb.optimizer.students import finished
from bsft_nb.run.files import write_json
from bsft_nb.run.folder import RunFolder

CLIENTS, KEY = 16, "meow"


def make_run(place: Path, target: str | None) -> RunFolder:
    "A finished run whose student is the untuned target: what it answers is of no matter here, that it is the same is."
    run = RunFolder(place / "home/runs/tickets-1")
    if target is None:
        student = save_llama(run / "model", CHAT, initializer_range=0.3, max_position_embeddings=1024)
    else:
        student = shutil.copytree(resolve_target(target).path, run / "model")
    write_json(student / "bsft.json", {"adapter": adapter_state(StudentAdapter()), "max_tokens": 16})
    program = keep_format(Triage())
    lm = student_lm(student, "tickets-1/model", dtype="float32", cache=False)
    for predictor in program.predictors():
        predictor.lm = lm
    finished(run, program, dict.fromkeys((n for n, _ in program.named_predictors()), student))
    return run


@contextlib.contextmanager
def serving(run: RunFolder):
    "The address of a server in a process of its own, and the process."
    code = f"from bsft_nb.serve.server import serve; serve({str(run.path)!r}, port=0, api_key={KEY!r}, dtype='float32', tell=lambda t: print(t, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split(" on ")[1].split(";")[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def answered(program: dspy.Module, asked: list[dspy.Example]) -> tuple[list[dict], float]:
    "The program's outputs, and the seconds that they took."
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        made = list(pool.map(lambda e: dict(program(ticket=e.ticket)), asked))
    return made, time.perf_counter() - began


class Recorded:
    "A student's engine that notes what it is asked, as bodies of OpenAI's form."

    def __init__(self, engine, model: str):
        self.engine, self.model, self.bodies = engine, model, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def __deepcopy__(self, memo):
        return self

    def complete(self, request):
        c = request.config
        form = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": c.response_format["schema"]}}} if c.response_format else {}
        self.bodies.append({"model": self.model, "messages": to_messages(request), "temperature": c.temperature or 0.0, "max_tokens": c.max_tokens, **form})
        return self.engine.complete(request)


def same(run: RunFolder, address: str, asked: list[dspy.Example]) -> tuple[dict, list[dict]]:
    "The same calls of the program in process and through the server; and the requests that they are made of."
    inside = bsft_nb.load(run.path, Triage(), dtype="float32")
    outside = bsft_nb.load(run.path, Triage(), lm=dspy.LM(f"openai/{run.id}", api_base=address, api_key=KEY, cache=False))
    made, rates = {}, {}
    for name, program in (("inside", inside), ("outside", outside)):
        answered(program, asked[:CLIENTS])  # weights, prefixes and connections are there from now on
        made[name], took = answered(program, asked)
        rates[name] = round(len(asked) / took, 1)
    lm = inside.predictors()[0].lm
    recorded = Recorded(lm.engine, run.id)
    for predictor in inside.predictors():
        predictor.lm = lm.copy(engine=recorded)
    again = answered(inside, asked)[0]
    lm.engine.close()
    equal = sum(a == b == c for a, b, c in zip(made["inside"], made["outside"], again))
    print(f"same answers: {equal} of {len(asked)}; calls of the program a second: {rates}", flush=True)
    return {"same_as_inside": equal, "of": len(asked), "program_calls_per_second": rates}, recorded.bodies


@contextlib.contextmanager
def side(*how: str):
    "A function that lets one side ask everything once."
    command = [sys.executable, str(Path(__file__).with_name("serve_sides.py")), *how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def ask() -> dict:
            process.stdin.write("go\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def throughput(run: RunFolder, address: str, server: psutil.Process, bodies: list[dict], place: Path, rounds: int) -> dict:
    "Requests a second in process and through the server, in turn."
    (place / "bodies.json").write_text(json.dumps(bodies))
    found, cpu, n = [], {"inside": 0.0, "server": 0.0}, len(bodies)
    with side("inside", str(place / "bodies.json"), str(run / "model")) as inside, side("outside", str(place / "bodies.json"), address, KEY) as outside:
        for _ in range(rounds):
            here, before = inside(), server.cpu_times()
            there, after = outside(), server.cpu_times()
            assert here["texts"] == there["texts"], "answers differ"
            cpu["inside"] += here["cpu"]
            cpu["server"] += after.user + after.system - before.user - before.system
            found.append({"inside": round(n / here["seconds"], 1), "outside": round(n / there["seconds"], 1)})
            print(found[-1], flush=True)
    middle = {k: statistics.median(f[k] for f in found) for k in ("inside", "outside")}
    ratio = statistics.median(f["outside"] / f["inside"] for f in found)
    return {"requests": n, "requests_per_second": middle, "throughput_ratio": round(ratio, 3), "rounds": found, "server_cpu_ms": round(1000 * (cpu["server"] - cpu["inside"]) / n / rounds, 2)}


BAD = (b"{", b"[]", b'{"model": "tickets-1"}', b'{"model": "dogs", "messages": [{"role": "user", "content": "a"}]}',
       b'{"model": "tickets-1", "messages": [{"role": "user", "content": "a"}], "temperature": "warm"}',
       b'{"model": "tickets-1", "messages": [{"role": "user", "content": "a"}], "best_of": 3}')


async def one(client: httpx.AsyncClient, address: str, i: int) -> str:
    "What became of request `i`."
    rng = random.Random(i)
    kind = rng.choices(["whole", "stream", "leaves", "leaves a stream", "long", "bad"], [25, 15, 17, 16, 12, 15])[0]
    words = " ".join(rng.choice(["parcel", "refund", "login", "late"]) for _ in range(rng.randrange(3, 30)))
    body = {"model": "tickets-1", "messages": [{"role": "user", "content": words * (4000 if kind == "long" else 1)}], "max_tokens": rng.randrange(1, 20), "stream": "stream" in kind}
    if "leaves" in kind:
        body["max_tokens"] = 300
    data = rng.choice(BAD) if kind == "bad" else json.dumps(body).encode()
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(rng.random() if "leaves" in kind else 600), client.stream("POST", f"{address}/chat/completions", content=data) as response:
            said = (await response.aread()).decode()
            if response.status_code == 200 and kind not in ("long", "bad"):
                whole = said.rstrip().endswith("data: [DONE]") if body["stream"] else json.loads(said)["choices"][0]["finish_reason"] in ("stop", "length")
                return "answered" if whole and '"error"' not in said else f"broken: {said[-100:]}"
            form = set(json.loads(said).get("error") or ()) == {"message", "type", "param", "code"}
            return "refused" if form and 400 <= response.status_code < 500 and kind in ("long", "bad") else f"{kind} {response.status_code}: {said[:100]}"
    return "hung up" if "leaves" in kind else "hangs"


async def storm(address: str, numbers: range, clients: int = 64) -> Counter:
    "Requests `numbers`, from so many clients."
    todo, ended = iter(numbers), Counter()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    async def client():
        async with httpx.AsyncClient(headers=headers, timeout=600) as connection:
            for i in todo:
                ended[await one(connection, address, i)] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return ended


def quiet(address: str, seconds: float = 60.0) -> bool:
    "Does nothing run, wait or stay open at the server, within `seconds`?"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = httpx.get(f"{address.removesuffix('/v1')}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text.splitlines()
        if all(x.endswith(" 0.0") for x in lines if x.startswith(("bsft_open_requests", "bsft_batch_rows{", "bsft_queue_rows{"))):
            return True
        time.sleep(0.2)
    return False


def stormy(address: str, server: psutil.Process, n: int) -> dict:
    "The storm in four parts, and the server's memory after each."
    ended, memory, still = Counter(), [], True
    for part in range(4):
        ended += asyncio.run(storm(address, range(n * part // 4, n * (part + 1) // 4)))
        still = quiet(address) and still
        memory.append(round(server.memory_info().rss / 2**20, 1))
    told = {"ended": dict(ended), "unexpected": sum(v for k, v in ended.items() if k not in ("answered", "refused", "hung up")), "rows_left_over": not still, "memory_mib": memory, "memory_growth_mib": round(memory[3] - memory[1], 1)}
    print(told, flush=True)
    return told


ELSEWHERE = "import json, sys, bsft_nb\nfrom bsft_nb.demo.tickets import Triage, tickets\np = bsft_nb.load(sys.argv[1], Triage(), dtype='float32')\nprint(json.dumps([dict(p(ticket=e.ticket)) for e in tickets('test')[: int(sys.argv[2])]]))"


def moved(run: RunFolder, place: Path, n: int) -> dict:
    "Do the moved folder and the archive answer as the run did?"
    inside = bsft_nb.load(run.path, Triage(), dtype="float32")
    before = [dict(inside(ticket=e.ticket)) for e in tickets("test")[:n]]
    archive = pack(run, place / "out.tar")
    there = shutil.move(run.path, place / "there")
    told = {}
    for name, path in (("folder", there), ("archive", archive)):
        done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(path), str(n)], capture_output=True, text=True, cwd="/", env={**os.environ, "BSFT_HOME": str(place / f"home-{name}")})
        told[name] = json.loads(done.stdout.splitlines()[-1]) == before if done.returncode == 0 else done.stderr[-300:]
    return told


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="smollm2-135m")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tiny model with random weights, 48 calls, 200 requests")
    args = parser.parse_args()
    if args.quick:
        args.target, args.calls, args.requests = None, 48, 200
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    place = Path(tempfile.mkdtemp())
    os.environ["BSFT_HOME"] = str(place / "home")
    asked = (tickets("test") + tickets("dev") + tickets("train"))[: args.calls]
    run = make_run(place, args.target)
    with serving(run) as (address, server):
        result, bodies = same(run, address, asked)
        result |= throughput(run, address, server, bodies, place, args.rounds)
        result["storm"] = stormy(address, server, args.requests)
    result["moved"] = moved(run, place, 20)
    shutil.rmtree(place)
    print(json.dumps({"target": args.target or "tiny", **result}))


if __name__ == "__main__":
    main()
