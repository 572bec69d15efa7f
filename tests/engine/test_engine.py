"""The engine's properties, on small real models."""
import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Literal

import dspy
import pytest
import safetensors.torch
import torch
from dspy.lm15 import Config, Message, Request

from bsft_nb import StudentAdapter, local_lm
from bsft_nb.engine.decode import Batch
from bsft_nb.engine.lm import StudentEngine, student_lm
from bsft_nb.engine.prefill import Reader
from bsft_nb.engine.sampling import Row
from bsft_nb.engine.scheduler import Pending
from bsft_nb.engine.worker import Worker
from bsft_nb.models.loading import load_weights
from bsft_nb.models.targets import check_folder
from bsft_nb.models.weights import TargetError


class Judge(dspy.Signature):
    """Judge."""

    text: str = dspy.InputField()
    verdict: Literal["yes", "no", "not sure at all"] = dspy.OutputField()


@pytest.mark.parametrize("folder", ["llama", "chat_llama", "t5"])
def test_closed_types_always_parse_however_hot(folder, request):
    lm = local_lm(request.getfixturevalue(folder), temperature=2.0)
    adapter = StudentAdapter("<extra_id_0>", "%<\n") if folder == "t5" else StudentAdapter()
    with dspy.context(lm=lm, adapter=adapter):
        judge = dspy.Predict(Judge)
        with ThreadPoolExecutor(8) as pool:
            contexts = [(dspy.settings.copy(), i) for i in range(60)]

            def ask(job):
                with dspy.context(**job[0]):
                    return judge(text=f"case {job[1]}").verdict

            said = list(pool.map(ask, contexts))
    assert set(said) <= {"yes", "no", "not sure at all"} and len(set(said)) > 1


def test_an_error_in_one_request_does_not_reach_another(llama):
    lm = local_lm(llama, max_tokens=4)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(lm, "x" * (600 if i % 3 == 0 else 5 + i)) for i in range(12)]
    for i, future in enumerate(futures):
        if i % 3 == 0:
            with pytest.raises(dspy.ContextWindowExceededError, match="600 tokens, the model's limit is 512"):
                future.result()
        else:
            assert isinstance(future.result()[0], str)


def test_usage_history_and_close(llama):
    lm = local_lm(llama, max_tokens=4)
    lm("hello")
    assert lm.history[-1]["usage"]["prompt_tokens"] == 5 or lm.history[-1]["usage"].get("input_tokens") == 5
    thread = lm.engine.worker.thread
    lm.engine.close()
    lm.engine.close()
    assert not thread.is_alive()
    assert isinstance(lm("hello again")[0], str), "starts again when asked"


def ask(text, **config):
    return Request(model="m", messages=(Message.user(text),), config=Config(**config))


def test_many_first_callers_load_the_tokenizer_once(llama, monkeypatch):
    import bsft_nb.engine.warm

    loaded, load, together = [], bsft_nb.models.tokens.load_codec, threading.Barrier(8)
    monkeypatch.setattr(bsft_nb.engine.warm, "_codecs", weakref.WeakValueDictionary())  # other tests have loaded it
    monkeypatch.setattr(bsft_nb.engine.warm, "load_codec", lambda path, **more: loaded.append(path) or time.sleep(0.2) or load(path, **more))
    engine = StudentEngine(llama, dtype="float32")

    def first(i):
        together.wait(10)
        return engine.complete(ask(f"case {i}", max_tokens=2)).usage.output_tokens

    with ThreadPoolExecutor(8) as pool:
        assert all(list(pool.map(first, range(8))))
    engine.close()
    assert loaded == [llama]


def test_an_idle_worker_gives_its_helper_threads_back(llama, monkeypatch):
    given = threading.Event()
    monkeypatch.setattr("bsft_nb.engine.scheduler.release_omp_threads", given.set)
    engine = StudentEngine.at(llama)
    engine.complete(ask("one", max_tokens=2))
    assert given.wait(10)
    given.clear()
    assert engine.complete(ask("two", max_tokens=2)).usage.output_tokens == 2 and given.wait(10), "each time"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP's helpers, as Linux shows them")
def test_helper_threads_are_given_back_and_a_fork_does_not_wait_for_them():
    code = """
import os, torch
from bsft_nb.models.devices import release_omp_threads
def threads(): return len(os.listdir("/proc/self/task"))
def compute(): return torch.rand(1000, 1000) @ torch.rand(1000, 1000)
release_omp_threads()
before = threads()
compute()
between = threads()
release_omp_threads()
after = threads()
compute()
pid = os.fork()
if pid == 0:
    release_omp_threads()
    os._exit(0)
print(before, between, after, os.waitpid(pid, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    before, between, after, status = map(int, done.stdout.split())
    assert before == after == between - 1 and status == 0


def test_closing_frees_the_weights(llama, monkeypatch):
    import bsft_nb.engine.scheduler

    loaded = []
    load = bsft_nb.engine.scheduler.load_for_inference
    monkeypatch.setattr(bsft_nb.engine.scheduler, "load_for_inference", lambda *a: loaded.append(weakref.ref(m := load(*a))) or m)
    engine = StudentEngine(llama, dtype="float32")
    engine.close()
    engine.complete(ask("hello", max_tokens=2))
    assert loaded[-1]() is not None
    engine.close()
    gc.collect()
    assert loaded[-1]() is None


@pytest.mark.parametrize(("text", "config", "why"), [("x", {"frequency_penalty": 1.0}, "frequency_penalty"), ("x", {"logprobs": 99}, "at most 20"), ("", {}, "empty")])
def test_what_the_model_cannot_do_is_refused(llama, text, config, why):
    with pytest.raises(dspy.lm15.InvalidRequestError, match=why):
        StudentEngine.at(llama).complete(ask(text, **config))


@pytest.mark.parametrize("folder", ["llama", "t5"])
def test_whole_numbers_and_optional_ones_always_parse(folder, request):
    engine = StudentEngine.at(request.getfixturevalue(folder))
    maybe = {"anyOf": [{"type": "string", "enum": ["null"]}, {"type": "integer"}]}
    said = set()
    for i in range(40):
        for schema in ({"type": "integer"}, maybe):
            text = engine.complete(ask(f"case {i}", temperature=2.0, max_tokens=12, response_format={"type": "json_schema", "schema": schema})).text
            assert text == "null" if text == "null" else str(int(text)) == text
            said.add(text)
    assert len(said) > 5


def test_logprobs_reach_the_caller(llama):
    said = local_lm(llama, max_tokens=4)("hello", logprobs=True, top_logprobs=2)[0]
    tokens = said["logprobs"].content
    assert len(tokens) == 4 and all(t.logprob <= 0 and len(t.top_logprobs) == 2 for t in tokens)
    assert "".join(t.token for t in tokens) == said["text"]


def test_templates_change_nothing_but_the_steps(llama, tmp_path, monkeypatch):
    "The template is made of the model's own answer, so that it would have said the same."
    folder = tmp_path / "student"
    for file in llama.iterdir():
        (folder / file.name).parent.mkdir(exist_ok=True)
        os.link(file, folder / file.name)
    plain = StudentEngine.at(folder, templates=False)
    row = plain.submit(ask("hello", max_tokens=12)).future.result()
    spelled = row.answer
    template = {"prompt": [row.prompt[:2], row.prompt[-1:]], "begin": spelled[:4], "end": [*spelled[7:10], 0], "sign": 1}
    assert spelled[7] not in spelled[4:7], "else another prompt is needed here"
    (folder / "bsft.json").write_text(json.dumps({"templates": {"p": template}}))
    steps, advance = [], Batch.advance
    monkeypatch.setattr(Batch, "advance", lambda self: steps.append(len(self.rows)) or advance(self))
    engine = StudentEngine(folder)
    said = engine.complete(ask("hello", max_tokens=12))
    assert said.text == plain.codec.text(spelled[:10]) and said.finish_reason == "stop" and said.usage.output_tokens == 10
    assert sum(map(bool, steps)) == 3
    assert StudentEngine.at(folder, templates=False).complete(ask("hello", max_tokens=12)).text == plain.codec.text(spelled)


def test_tokens_are_streamed_as_they_come(llama):
    engine = StudentEngine.at(llama)
    whole = engine.complete(ask("tell me", max_tokens=40)).text
    events = list(engine.stream(ask("tell me", max_tokens=40)))
    pieces = [e.delta.text for e in events if e.type == "delta"]
    assert "".join(pieces) == whole and len(pieces) > 10
    assert events[0].type == "start" and events[-1].type == "end" and events[-1].usage.output_tokens == 40


def test_streamify_streams(llama):
    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.say = dspy.Predict("question -> answer")

        def forward(self, question):
            return self.say(question=question)

    async def run(program):
        return [chunk async for chunk in program(question="what?")]

    with dspy.context(lm=local_lm(llama, max_tokens=30), adapter=StudentAdapter()):
        said = asyncio.run(run(dspy.streamify(Program())))
    chunks = [c.choices[0].delta.content for c in said if hasattr(c, "choices") and c.choices[0].delta.content]
    assert isinstance(said[-1], dspy.Prediction) and len(chunks) > 5
    assert "".join(chunks).strip() == said[-1].answer.strip()


def test_a_slow_listener_blocks_nobody_and_one_who_leaves_frees_the_place(llama):
    engine = StudentEngine.at(llama)
    slow = engine.stream(ask("slow", max_tokens=400))
    next(slow)
    began = time.monotonic()
    engine.complete(ask("quick", max_tokens=3))
    assert time.monotonic() - began < 5
    slow.close()
    engine.complete(ask("x", max_tokens=2))
    deadline = time.monotonic() + 10
    while engine.worker.thread.batches.pending and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not engine.worker.thread.batches.pending


def test_a_long_answer_holds_up_nobody(llama):
    engine, order = StudentEngine.at(llama), []
    long = engine.submit(ask("a long one", max_tokens=400))
    long.future.add_done_callback(lambda _: order.append("long"))
    for other in (ask("a short one", max_tokens=2), Request(model="m", system="Other.", messages=(Message.user("?"),), config=Config(max_tokens=2))):
        engine.complete(other)
        order.append("short")
    long.future.result()
    assert order == ["short", "short", "long"]


def test_cancelled_and_timed_out_callers_leave_the_batch(llama):
    engine = StudentEngine.at(llama)
    jobs = [engine.submit(ask(f"case {i}", max_tokens=450)) for i in range(6)]
    for job in jobs[::2]:
        job.future.cancel()
    lengths = [len(j.future.result().answer) for j in jobs[1::2]]
    assert all(n > 100 for n in lengths) and all(len(j.row.answer) < 450 for j in jobs[::2])
    with pytest.raises(CancelledError):
        jobs[0].future.result()

    async def impatient():
        lm = local_lm(llama, max_tokens=450)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lm.acall("never mind"), 0.05)
        return await lm.acall("hello", max_tokens=2)

    assert isinstance(asyncio.run(impatient())[0], str)


def test_out_of_memory_halves_the_batch_and_loses_nothing(llama, monkeypatch):
    engine = StudentEngine(llama)
    expected = [engine.complete(ask("y" * (i + 1), max_tokens=20)).text for i in range(12)]
    advance, refused = Batch.advance, []

    def tight(self):
        if len(self.rows) > 3:
            refused.append(len(self.rows))
            raise torch.OutOfMemoryError("no room")
        advance(self)

    monkeypatch.setattr(Batch, "advance", tight)
    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda i: engine.complete(ask("y" * (i + 1), max_tokens=20)).text, range(12)))
    assert said == expected and refused


def test_a_fault_in_one_row_is_its_own(llama, monkeypatch):
    engine, read = StudentEngine(llama), Reader.read

    def faulty(self, asked, *args):
        if any(len(p) == 7 for p in asked):
            raise RuntimeError("cursed")
        return read(self, asked, *args)

    monkeypatch.setattr(Reader, "read", faulty)
    jobs = [engine.submit(ask("z" * i, max_tokens=5)) for i in range(1, 13)]
    for i, job in enumerate(jobs, 1):
        if i == 7:
            with pytest.raises(RuntimeError, match="cursed"):
                job.future.result(30)
        else:
            assert len(job.future.result(30).answer) <= 5


def test_a_model_that_does_not_load_is_everybodys_error_not_a_hang(llama, monkeypatch):
    import bsft_nb.engine.scheduler

    def broken(*args):
        raise OSError("gone")

    monkeypatch.setattr(bsft_nb.engine.scheduler, "load_for_inference", broken)
    engine = StudentEngine(llama, dtype="float32")
    engine.close()
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            engine.submit(ask("hello")).future.result(20)
    engine.close()


def test_a_full_queue_makes_callers_wait(llama):
    worker = Worker(llama, waiting=2)
    jobs = [Pending(Row([1, 2, 3 + i], 200), (None, "g")) for i in range(3)]
    sent = []
    thread = threading.Thread(target=lambda: [sent.append(worker.submit(j)) for j in jobs])
    thread.start()
    thread.join(0.05)
    assert len(sent) == 2 or all(f.done() for f in sent[:1])
    assert [len(j.future.result(30).answer) <= 200 for j in jobs] == [True] * 3
    thread.join(10)
    worker.close()


CHILD = """
import os, sys, threading
from bsft_nb import local_lm
lm = local_lm(sys.argv[1], max_tokens=3, cache=False)
said = lm("hello")
{}
"""


@pytest.mark.parametrize(
    "then",
    [
        "threading.Thread(target=lambda: lm('x', max_tokens=450), daemon=True).start(); import time; time.sleep(0.1); print('left')",
        "pid = os.fork()\nassert lm('hello') == said\nif pid == 0: os._exit(0)\nassert os.waitpid(pid, 0)[1] == 0; print('left')",
        "threads = [threading.Thread(target=lm, args=('y' * i,), kwargs=dict(max_tokens=200), daemon=True) for i in range(4)]\n[t.start() for t in threads]\npid = os.fork()\nassert lm('hello') == said\nif pid == 0: os._exit(0)\nassert os.waitpid(pid, 0)[1] == 0; print('left')",
    ],
    ids=["exit while answering", "fork", "fork while answering"],
)
def test_processes_end_and_fork(llama, then):
    done = subprocess.run([sys.executable, "-c", CHILD.format(then), str(llama)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "left", done.stderr


def test_what_answers_for_a_worker_that_is_gone_is_waited_for_at_exit(llama):
    "A thread inside the model while the interpreter goes would abort the process."
    import bsft_nb.engine.worker

    worker = Worker(llama)
    worker.submit(Pending(Row([1, 2, 3], 2), (None, "g"))).result(60)
    thread, alive = worker.thread, weakref.ref(worker)
    with thread.busy:
        last = worker.submit(Pending(Row([1, 2, 4], 2), (None, "g")))
        del worker
        gc.collect()
        assert alive() is None and thread in bsft_nb.engine.worker._threads()
    last.result(60)
    thread.join(60)
    assert thread not in bsft_nb.engine.worker._threads()


@pytest.fixture
def lora(llama, tmp_path):
    "Two LoRA adapters with weights of their own, as training writes them."
    peft = pytest.importorskip("peft")
    folders = []
    for i in (1, 2):
        torch.manual_seed(i)
        model = peft.get_peft_model(load_weights(llama), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        folders.append(tmp_path / f"adapter.{i}")
        model.save_pretrained(folders[-1])
        base = {"path": str(llama), "fingerprint": check_folder(llama, "").fingerprint}
        (folders[-1] / "bsft.json").write_text(json.dumps({"base": base, "max_tokens": 12}))
    return folders


def test_adapters_share_one_base_and_answer_as_if_alone(llama, lora):
    engines = [StudentEngine.at(f) for f in (llama, *lora)]
    assert len({id(e.worker) for e in engines}) == 1 and len({e.target.fingerprint for e in engines}) == 3
    jobs = [(e, e.submit(ask(f"case {i}", max_tokens=12))) for i in range(4) for e in engines]
    for folder, engine in zip((llama, *lora), engines, strict=True):
        model = load_weights(folder)
        for e, job in jobs:
            if e is engine:
                row = job.future.result(60)
                out = model.generate(torch.tensor([row.prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=0)[0].tolist()
                assert row.answer == [t for t in out[len(row.prompt) :] if t]
    assert student_lm(lora[0]).model != student_lm(lora[1]).model


def test_each_adapter_answers_a_request_that_comes_alone(llama, lora):
    engines = [StudentEngine.at(f) for f in (llama, *lora)]
    answers = [e.submit(ask("case 1", max_tokens=12)).future.result(60).answer for e in engines]
    assert len(set(map(tuple, answers))) == 3


def test_an_adapter_that_was_refused_does_not_answer_later(llama, lora):
    tensors = safetensors.torch.load_file(lora[0] / "adapter_model.safetensors")
    safetensors.torch.save_file(dict(list(tensors.items())[1:]), lora[0] / "adapter_model.safetensors")
    engine = StudentEngine.at(lora[0])
    for _ in range(2):
        with pytest.raises(TargetError, match="lack 1 tensor"):
            engine.submit(ask("case 1")).future.result(60)
    assert StudentEngine.at(llama).submit(ask("case 1")).future.result(60).finish in ("stop", "length")


@pytest.mark.parametrize("folder", ["llama", "t5"])
def test_eight_bits_answer_nearly_the_same_in_any_company(folder, request):
    path = request.getfixturevalue(folder)
    exact, rounded = StudentEngine.at(path, dtype="float32"), StudentEngine.at(path, dtype="int8")
    asked = [ask(f"case {i} " + "a" * (i % 5), max_tokens=6, temperature=0.0) for i in range(12)]
    alone = [rounded.submit(a).future.result(60) for a in asked]
    together = [job.future.result(60) for job in [rounded.submit(a) for a in asked]]
    assert [r.answer for r in together] == [r.answer for r in alone]
    same = [a == b for r, a_ in zip(alone, asked, strict=True) for a, b in zip(r.answer, exact.submit(a_).future.result(60).answer, strict=False)]
    assert sum(same) > len(same) * 0.6
    assert len({local_lm(path, dtype=d).model for d in ("int8", "float32", None)}) == 3  # DSPy caches answers by it


def test_types_of_weights_that_cannot_be_are_refused(llama, lora):
    with pytest.raises(ValueError, match="dtype='fp16': choose one of float32, bfloat16, float16, int8"):
        local_lm(llama, dtype="fp16")
    with pytest.raises(ValueError, match="adapter.1 is a LoRA adapter, whose base cannot be rounded. Merge"):
        StudentEngine.at(lora[0], dtype="int8")


def test_an_adapter_without_its_base_is_refused(lora):
    meta = json.loads((lora[0] / "bsft.json").read_text())
    (lora[0] / "bsft.json").write_text(json.dumps({**meta, "base": {**meta["base"], "fingerprint": "other"}}))
    with pytest.raises(TargetError, match="not those it was trained on"):
        StudentEngine.at(lora[0])
    (lora[0] / "bsft.json").write_text("{}")
    with pytest.raises(TargetError, match="names its base"):
        StudentEngine.at(lora[0])


def test_many_mixed_requests_all_end(llama):
    "A short version of tests/bench/stress.py."
    from stress import storm

    counts = storm(StudentEngine.at(llama), requests=150, threads=16, seed=1)
    assert sum(counts.values()) == 150 and counts["hung"] == 0 and counts["unexpected"] == 0
    assert min(counts[k] for k in ("answered", "cancelled", "too long", "refused")) > 0
