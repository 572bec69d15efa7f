"""The two sides of `serve.py`, each a process of its own: `inside` awaits a student's engine, `outside` asks a server.

    python tests/bench/serve_sides.py inside BODIES FOLDER
    python tests/bench/serve_sides.py outside BODIES http://127.0.0.1:8000/v1 KEY

BODIES holds a JSON array of request bodies. For each line on standard input all of them are asked, always 16 at a time, and
a line of JSON says the `seconds`, the process' own processor `cpu` seconds, and the answers' `texts`.
"""
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

CLIENTS = 16


def awaiting(folder: str, bodies: list[bytes]) -> list[Callable[[int], Awaitable[str]]]:
    "For each caller, what asks the engine the request number so and so."
    from bsft_nb.engine.lm import AsyncStudentEngine, StudentEngine
    from bsft_nb.serve.wire import chat_call

    engine = AsyncStudentEngine(StudentEngine.at(folder, dtype="float32"))
    requests = [chat_call(b).request for b in bodies]

    async def ask(i: int) -> str:
        return (await engine.complete(requests[i])).message.text or ""

    return [ask] * CLIENTS


async def connected(stack: AsyncExitStack, address: str, key: str, bodies: list[bytes]) -> Callable[[int], Awaitable[str]]:
    "What asks the server over a connection of its own."
    host, port = address.removeprefix("http://").partition("/")[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    stack.callback(writer.close)
    heads = [f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(b)}\r\n\r\n".encode() for b in bodies]

    async def ask(i: int) -> str:
        writer.write(heads[i] + bodies[i])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        data = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        assert head.startswith(b"http/1.1 200"), data[:200]
        return json.loads(data)["choices"][0]["message"]["content"]

    return ask


async def asked(callers: list[Callable[[int], Awaitable[str]]], n: int) -> list[str]:
    "The answers to all requests: each caller asks the next one when it has an answer."
    todo, texts = iter(range(n)), [""] * n

    async def caller(ask):
        for i in todo:
            texts[i] = await ask(i)

    await asyncio.gather(*map(caller, callers))
    return texts


async def main(side: str, bodies: list[bytes], where: str, key: str = ""):
    inside = awaiting(where, bodies) if side == "inside" else None

    async def timed(n: int) -> dict:
        async with AsyncExitStack() as stack:  # of the server, which closes connections that nobody uses while the other side is asked
            callers = inside or [await connected(stack, where, key, bodies) for _ in range(CLIENTS)]
            began, cpu = time.perf_counter(), time.process_time()
            texts = await asked(callers, n)
            return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "texts": texts}

    await timed(min(len(bodies), 2 * CLIENTS))  # weights and prefixes are there from now on
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await timed(len(bodies))), flush=True)


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        given = [json.dumps(b).encode() for b in json.load(file)]
    asyncio.run(main(sys.argv[1], given, *sys.argv[3:]))
