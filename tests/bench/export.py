"""Does a student answer the same outside? Real SmolLM2 weights, each form, asked by its own runtime. Last line: one JSON object.

Two students of the demo's program are trained here for a moment, one of all weights and one LoRA adapter. Each leaves in
its forms, and `export_parity` says for each how many of the held-out prompts it answers as the run's engine does in float32:

- `equal`: answers with the same parsed outputs, of `n`; `prompts_equal`: prompts with the same token ids
- `seconds`: for writing and asking

    python tests/bench/export.py              # 100 prompts a form; about twenty minutes on two quiet cores
    python tests/bench/export.py --quick      # 10 prompts a form
"""
import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy

from bsft_nb import BootstrapFinetune
from bsft_nb.demo.tickets import Triage, tickets
from bsft_nb.export.forms import export_model
from bsft_nb.export.template import ExportError
from bsft_nb.lessons import teacher_lm

FORMS = (("full", "hf", "float32"), ("full", "hf", "bfloat16"), ("full", "gguf", "f16"), ("full", "gguf", "q8_0"), ("lora", "hf", "float32"), ("lora", "lora", "float32"))


def labels(known):
    "A scripted teacher that reads the labels."
    def answer(text):
        asked = text.split("[[ ## ticket ## ]]")[-1]
        example = known[asked.split("[[ ##")[0].split("\n\nRespond with")[0].strip()]
        return {"urgency": example.urgency} if "[[ ## team ## ]]\n" in asked else {"team": example.team}

    return teacher_lm(answer)


def students(place: Path, quick: bool):
    train, held = tickets("train")[: 4 if quick else 64], tickets("test")[: 5 if quick else 50]
    for name, how in (("full", dict(lr=1e-4, training=dict(frozen=0.4))), ("lora", dict(lr=1e-3, peft=True))):
        tp = BootstrapFinetune(None, dict(lm=labels({e.ticket: e for e in [*train, *held]})))
        tp.compile(Triage(), trainset=train, valset=held, target="smollm2-135m", bsize=8, epochs=1, run_dir=place / name, launch="inline", **how)
        yield name, tp.run


def main():
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--quick", action="store_true")
    args = ask.parse_args()
    for name in ("dspy", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        runs = dict(students(Path(place), args.quick))
        for run, form, dtype in FORMS:
            began, key = time.time(), f"{run} {form} {dtype}"
            try:
                done = export_model(runs[run], Path(place) / key.replace(" ", "-"), form, dtype=dtype, prompts=10 if args.quick else 100, min_agreement=0)
                p = done.parity["model"]
                figures[key] = {"equal": p.equal, "n": p.n, "prompts_equal": p.prompts_equal, "runtime": p.runtime, "seconds": round(time.time() - began)}
            except ExportError as e:  # the converter is missing, or a prompt has other tokens
                figures[key] = {"failed": str(e)[:300]}
            print(key, figures[key], flush=True)
    print(json.dumps({"export_parity": figures}), flush=True)


if __name__ == "__main__":
    main()
