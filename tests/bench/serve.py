"""A student behind HTTP against the same student in process, a storm of clients, and a run that is moved. Last line: one JSON object.

    python tests/bench/serve.py [--target smollm2-135m] [--calls 200] [--quick]

The server is a process of its own. `same_as_inside`: calls of a program, greedy, fp32, from 16 clients, whose outputs are
those in process, of so many. `throughput_ratio`: calls a second through the server against in process, the better of two
rounds each. `storm`: 1,000 requests from 64 clients, of which a third hang up; over-long and malformed ones among them: how
they ended, and by how many MiB the server's memory grew from the end of the first half to the end of the second.
`moved`: answers of the run after its folder was moved, and of its archive, in fresh processes under another BSFT_HOME.
"""
import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
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
        yield process.stdout.readline().split(" on ")[1].split(";")[0], psutil.Process(process.pid)
        process.terminate()


def answered(program: dspy.Module, asked: list[dspy.Example]) -> tuple[list[dict], float]:
    "The program's outputs, and the seconds that they took."
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        made = list(pool.map(lambda e: dict(program(ticket=e.ticket)), asked))
    return made, time.perf_counter() - began


def compare(run: RunFolder, address: str, asked: list[dspy.Example]) -> dict:
    "The same calls in process and through the server."
    inside = bsft_nb.load(run.path, Triage(), dtype="float32")
    outside = bsft_nb.load(run.path, Triage(), lm=dspy.LM(f"openai/{run.id}", api_base=address, api_key=KEY, cache=False))
    seconds, made = {"inside": [], "outside": []}, {}
    for program in (inside, outside):
        answered(program, asked[:CLIENTS])  # weights, prefixes and connections are there from now on
    for name, program in [("inside", inside), ("outside", outside)] * 2:
        made[name], took = answered(program, asked)
        seconds[name].append(took)
    for predictor in inside.predictors():
        predictor.lm.engine.close()
    same = sum(a == b for a, b in zip(made["inside"], made["outside"]))
    rates = {n: round(len(asked) / min(s), 1) for n, s in seconds.items()}
    print(f"same answers: {same} of {len(asked)}; calls a second: {rates}", flush=True)
    return {"same_as_inside": same, "of": len(asked), "calls_per_second": rates, "throughput_ratio": round(rates["outside"] / rates["inside"], 3)}


BAD = (b"{", b"[]", b'{"model": "tickets-1"}', b'{"model": "dogs", "messages": [{"role": "user", "content": "a"}]}',
       b'{"model": "tickets-1", "messages": [{"role": "user", "content": "a"}], "temperature": "warm"}',
       b'{"model": "tickets-1", "messages": [{"role": "user", "content": "a"}], "best_of": 3}')


async def one(client: httpx.AsyncClient, address: str, i: int) -> str:
    "What became of request `i`."
    rng = random.Random(i)
    kind = rng.choices(["whole", "stream", "leaves", "leaves a stream", "long", "bad"], [25, 15, 17, 16, 12, 15])[0]
    words = " ".join(rng.choice(["parcel", "refund", "login", "late"]) for _ in range(rng.randrange(3, 30)))
    body = {"model": "tickets-1", "messages": [{"role": "user", "content": words * (400 if kind == "long" else 1)}], "max_tokens": rng.randrange(1, 20), "stream": "stream" in kind}
    if "leaves" in kind:
        body["max_tokens"] = 300
    data = rng.choice(BAD) if kind == "bad" else json.dumps(body).encode()
    with contextlib.suppress(asyncio.TimeoutError):
        async with asyncio.timeout(rng.random() if "leaves" in kind else 600), client.stream("POST", f"{address}/chat/completions", content=data) as response:
            said = (await response.aread()).decode()
            if response.status_code == 200 and kind not in ("long", "bad"):
                whole = said.rstrip().endswith("data: [DONE]") if body["stream"] else json.loads(said)["choices"][0]["finish_reason"] in ("stop", "length")
                return "answered" if whole and '"error"' not in said else f"broken: {said[-100:]}"
            form = set(json.loads(said)["error"]) == {"message", "type", "param", "code"}
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
    "The storm in two halves, and the server's memory after each."
    ended, memory = Counter(), []
    for numbers in (range(n // 2), range(n // 2, n)):
        ended += asyncio.run(storm(address, numbers))
        still = quiet(address)
        memory.append(server.memory_info().rss / 2**20)
    told = {"ended": dict(ended), "unexpected": sum(v for k, v in ended.items() if k not in ("answered", "refused", "hung up")), "rows_left_over": not still, "memory_growth_mib": round(memory[1] - memory[0], 1)}
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
        result = compare(run, address, asked)
        result["storm"] = stormy(address, server, args.requests)
    result["moved"] = moved(run, place, 20)
    shutil.rmtree(place)
    print(json.dumps({"target": args.target or "tiny", **result}))


if __name__ == "__main__":
    main()
