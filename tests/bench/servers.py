"""Does a student answer the same at the servers of others? Each that is installed, asked through `bsft_nb.load(..., lm=)`. Last line: one JSON object.

Real SmolLM2 weights are trained for a moment on the demo's program, with scripted labels. For each server `equal` of `n`
held-out calls of the program have the outputs that they have in process, and `prompt_tokens_equal` says whether the
server counted as many tokens in each prompt as the engine. `seconds`: until the server answered, and for the calls.

    python tests/bench/servers.py                        # 50 calls; about six minutes a server on two quiet cores
    python tests/bench/servers.py --quick                # 5 calls
    python tests/bench/servers.py --vllm PYTHON          # vLLM, too, of the environment with this interpreter

transformers: `transformers serve`. llama.cpp: the server in xllamacpp. vLLM lives apart, as it pins another transformers.
"""
import argparse
import json
import logging
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy

sys.path.append(str(Path(__file__).parents[1]))
from export import students
from outside import with_llama_cpp, with_transformers, with_vllm

import bsft_nb
from bsft_nb.demo.tickets import Triage, tickets
from bsft_nb.export.forms import export_model


def answers(program: dspy.Module, asked: list[dspy.Example]) -> tuple[list[dict], list[int]]:
    "Outputs of the program, and the prompt tokens of each of its calls."
    def one(example):
        with dspy.context(track_usage=True):
            made = program(ticket=example.ticket)
        return dict(made), sum(u.get("prompt_tokens") or 0 for u in (made.get_lm_usage() or {}).values())

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, asked))
    return [a for a, _ in found], [n for _, n in found]


def compare(run, here: tuple, asked: list, server, name: str) -> dict:
    "One server against the engine."
    began = time.time()
    with server as address:
        up = time.time()
        program = bsft_nb.load(run.path, Triage(), lm=dspy.LM(f"openai/{name}", api_base=address, api_key="none", cache=False))
        there = answers(program, asked)
    return {"equal": sum(a == b for a, b in zip(here[0], there[0])), "n": len(asked), "prompt_tokens_equal": here[1] == there[1], "seconds": [round(up - began), round(time.time() - up)]}


def main():
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--vllm", metavar="PYTHON")
    args = ask.parse_args()
    for name in ("dspy", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    figures, asked = {}, tickets("test")[: 5 if args.quick else 50]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _, run = next(students(place, args.quick))
        here = answers(bsft_nb.load(run.path, Triage(), dtype="float32"), asked)
        hf, file = place / "hf", place / "gguf" / "model-f32.gguf"
        export_model(run, hf, prompts=0)
        export_model(run, place / "gguf", "gguf", dtype="f32", prompts=0)
        servers = {"transformers": (with_transformers(hf, place / "log"), str(hf)), "llama.cpp": (with_llama_cpp(file, place / "log"), "model")}
        if args.vllm:
            servers["vllm"] = (with_vllm(args.vllm, hf, place / "log"), "student")
        for name, (server, model) in servers.items():
            try:
                figures[name] = compare(run, here, asked, server, model)
            except RuntimeError as e:  # it does not answer
                figures[name] = {"failed": str(e)[-300:]}
            print(name, figures[name], flush=True)
    print(json.dumps({"servers": figures}), flush=True)


if __name__ == "__main__":
    main()
