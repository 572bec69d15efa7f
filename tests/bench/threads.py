"""What it costs that other threads, which computed and now wait, keep torch's helper threads. Last line: one JSON
object; `kept_vs_given_back` is the time of a pass over 512 tokens beside such threads over its time beside threads
that gave theirs back.

    python tests/bench/threads.py    # half a minute on two cores
"""
import json
import statistics
import threading
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bsft_nb.models.devices import release_omp_threads

WAITING, ROUNDS = 3, 6


def beside(give_back, passes):
    "What `passes` returns while threads wait that have computed."
    done, ready = threading.Event(), threading.Semaphore(0)

    def compute_and_wait():
        torch.ones(500, 500) @ torch.ones(500, 500)
        if give_back:
            release_omp_threads()
        ready.release()
        done.wait()
        release_omp_threads()

    others = [threading.Thread(target=compute_and_wait) for _ in range(WAITING)]
    for t in others:
        t.start()
    for _ in others:
        ready.acquire()
    try:
        return passes()
    finally:
        done.set()
        for t in others:
            t.join()


def main():
    config = LlamaConfig(vocab_size=1000, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
    model, ids = LlamaForCausalLM(config).eval(), torch.arange(512)[None]

    def passes():
        "Seconds of each of two passes."
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            with torch.inference_mode():
                model(ids, use_cache=False)
            taken.append(time.perf_counter() - began)
        return taken

    passes()
    given, kept = [], []
    for _ in range(ROUNDS):  # in turn: a machine's speed moves
        given += beside(True, passes)
        kept += beside(False, passes)
    given, kept = statistics.median(given), statistics.median(kept)
    print(f"a pass beside {WAITING} threads that wait: {given:.2f} s where they gave their helpers back, {kept:.2f} s where they kept them ({torch.get_num_threads()} threads a computation)")
    print(json.dumps({"kept_vs_given_back": round(kept / given, 2)}))


if __name__ == "__main__":
    main()
