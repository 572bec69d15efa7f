"""A storm of requests: every caller gets an answer or its own error. Last line: one JSON object.

1,000 mixed requests from 64 threads (greedy, sampled, restricted, streamed; some cancelled, some too long for the
context, some with parameters that are refused), then 1,000 sampled answers of closed types at temperature 1.5.

    python tests/bench/stress.py [--target smollm2-135m] [--quick]
"""
import argparse
import asyncio
import gc
import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooSlow
from typing import Literal

import dspy
from dspy.lm15 import Config, ContextLengthError, InvalidRequestError, Message, Request

from bsft_nb.engine.lm import AsyncStudentEngine, StudentEngine
from bsft_nb.models.student_adapter import StudentAdapter
from bsft_nb.models.targets import resolve_target

PATIENCE = 600  # seconds until a caller counts as hung


def one(engine, i: int, seed: int) -> str:
    "What became of request `i`."
    rng = random.Random(f"{seed} {i}")
    kind = rng.choices(["plain", "sampled", "enum", "integer", "stream", "cancel", "timeout", "left stream", "long", "bad"], [5, 5, 3, 2, 3, 4, 2, 2, 2, 2])[0]
    text = " ".join(rng.choice(["parcel", "refund", "login", "late", "where", "please"]) for _ in range(rng.randrange(3, 40)))
    system = rng.choice(["Answer.", "Pick a team.", "Decide how urgent it is, and say so."])
    config = {"max_tokens": rng.randrange(1, 25)}
    if kind == "sampled":
        config |= {"temperature": 1.5, "top_p": 0.9, "top_k": rng.choice([None, 5]), "seed": i, "stop": ("e",)}
    if kind in ("enum", "integer"):
        schema = {"type": "integer"} if kind == "integer" else {"type": "string", "enum": ["high", "normal", "low"]}
        config |= {"temperature": 1.5, "response_format": {"type": "json_schema", "schema": schema}}
    if kind in ("cancel", "timeout", "left stream"):
        config["max_tokens"] = 300
    if kind == "bad":
        config["frequency_penalty"] = 1.0
    if kind == "long":
        text *= (engine.codec.max_length or 0) // len(text.split()) + 1
    request = Request(model="m", system=system, messages=(Message.user(text),), config=Config(**config))
    try:
        if kind == "stream":
            return "answered" if list(engine.stream(request))[-1].type == "end" else "unexpected"
        if kind == "left stream":
            stream = engine.stream(request)
            next(stream), next(stream)
            stream.close()
            return "cancelled"
        if kind == "timeout":
            asyncio.run(asyncio.wait_for(AsyncStudentEngine(engine).complete(request), rng.random() / 5))
            return "answered"
        job = engine.submit(request)
        if kind == "cancel":
            time.sleep(rng.random() / 5)
            job.future.cancel()
        job.future.result(PATIENCE)
        return "answered"
    except (CancelledError, asyncio.TimeoutError, TooSlow) as e:
        return "cancelled" if kind in ("cancel", "timeout") else f"hung ({kind}, {type(e).__name__})"
    except ContextLengthError:
        return "too long" if kind == "long" else "unexpected"
    except InvalidRequestError:
        return "refused" if kind == "bad" else "unexpected"


def storm(engine, requests: int, threads: int, seed: int = 0) -> Counter:
    "Send `requests` from `threads` threads; how many were answered, cancelled, too long, refused, hung, or anything else."
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(one, engine, i, seed) for i in range(requests)]
        ends = []
        for f in futures:
            try:
                ends.append(f.result())
            except Exception as e:
                ends.append("unexpected")
                print(f"unexpected: {type(e).__name__}: {e}")
    return Counter("hung" if e.startswith("hung") else e for e in ends)


def answers_that_parse(engine, n: int, threads: int = 32) -> dict[str, int]:
    "Of `n` sampled answers at temperature 1.5 of each closed type, how many do not parse."
    adapter, failed = StudentAdapter(), {}
    kinds = {"Literal": Literal["billing", "shipping", "no team at all"], "bool": bool, "int": int}
    for name, kind in kinds.items():
        signature = dspy.Signature("ticket -> answer", "Answer.").with_updated_fields("answer", type_=kind)
        schema = adapter.schema(signature)

        def ask(i):
            config = Config(temperature=1.5, max_tokens=12, response_format={"type": "json_schema", "schema": schema})
            messages = adapter.format(signature, [], {"ticket": f"parcel {i} is late"})
            request = Request(model="m", system=messages[0]["content"], messages=(Message.user(messages[1]["content"]),), config=config)
            try:
                value = adapter.parse(signature, engine.complete(request).text)["answer"]
                return isinstance(value, kind) if name != "Literal" else value in kind.__args__
            except dspy.utils.exceptions.AdapterParseError:
                return False

        with ThreadPoolExecutor(threads) as pool:
            failed[name] = n - sum(pool.map(ask, range(n)))
    return failed


def main():
    import psutil

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--target", default="smollm2-135m")
    arguments.add_argument("--quick", action="store_true")
    args = arguments.parse_args()
    n = 200 if args.quick else 1000
    engine = StudentEngine.at(resolve_target(args.target).path)
    process, levels = psutil.Process(), []
    for _ in range(4):  # memory after the last storm is that after those before
        began = time.time()
        counts = storm(engine, n, 64)
        thread = engine.worker.thread
        engine.close()
        gc.collect()
        levels.append(process.memory_info().rss / 2**20)
        print(f"{n} requests from 64 threads in {time.time() - began:.0f} s: {dict(counts)}; left over: {len(thread._jobs)} jobs, {sum('bsft' in t.name for t in threading.enumerate())} threads; {levels[-1]:.0f} MB", flush=True)
    failed = answers_that_parse(engine, n)
    print(f"answers of closed types at temperature 1.5 that do not parse, of {n} each: {failed}")
    ended = counts["hung"] == counts["unexpected"] == 0 and sum(counts.values()) == n
    print(json.dumps({"requests": n, **{k: counts[k] for k in ("answered", "cancelled", "too long", "refused", "hung", "unexpected")}, "every_caller_heard": ended, "memory_mb": [round(x) for x in levels], "parse_failures": failed}))


if __name__ == "__main__":
    main()
