"""The main job on small real models: compile, resume, save, load, ask from threads."""
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import dspy
import pytest
from sorting import KINDS, Sort, examples, knows, same_kind

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.data.pairs import DataError
from bsft_nb.lessons import CHAT, save_llama, save_t5, teacher_lm
from bsft_nb.run.events import Stopped
from bsft_nb.run.files import read_lines
from bsft_nb.run.folder import find_run
from bsft_nb.run.progress import state_of
from bsft_nb.run.steps import seconds_by_step


def score(program, n=60):
    return dspy.Evaluate(devset=examples(n, 1), metric=same_kind, num_threads=8, display_progress=False)(program).score / 100


def unowled(rows):
    return [e for e in rows if "owl" not in e.words]


def test_t5_from_scratch_learns_what_it_could_not_do(tmp_path):
    base = save_t5(tmp_path / "t5", [e.words + " words kind " + e.kind + " say what of thing is named" for e in examples(100, 5)])
    lm = teacher_lm(knows)
    before = bsft_nb.local_lm(base)
    with dspy.context(lm=before, adapter=bsft_nb.models.student_adapter.StudentAdapter("<extra_id_0>", "%<\n")):
        untuned = score(dspy.Predict(Sort))
    tp = BootstrapFinetune(same_kind, dict(lm=lm))
    trainset = examples(240, 0)
    compiled = tp.compile(dspy.Predict(Sort), trainset=trainset, target=base, bsize=16, lr=2e-3, epochs=12)
    tests = unowled(examples(120, 1))
    tuned = sum(compiled(words=e.words).kind == e.kind for e in tests) / len(tests)
    assert untuned < 0.6 and tuned >= 0.9, (untuned, tuned)
    funnel = tp.run.funnel()
    owls = len({e.words for e in trainset if "owl" in e.words})
    assert funnel["kept"]["all"] == funnel["tried"]["all"] - owls, "the metric kept the teacher's mistakes out"
    losses = [e.data["eval_loss"] for e in tp.run.events if e.kind == "eval"]
    assert losses[-1] < losses[0]


@pytest.fixture
def tiny(tmp_path):
    return save_llama(tmp_path / "base")


SETTINGS = dict(bsize=8, lr=3e-3, epochs=2)


def test_same_arguments_reuse_everything_and_new_training_arguments_the_traces(tiny):
    lm = teacher_lm(knows)
    trainset = examples(30, 0)
    tp = BootstrapFinetune(same_kind, dict(lm=lm))
    tp.compile(dspy.Predict(Sort), trainset=trainset, target=tiny, **SETTINGS)
    first, calls = tp.run, lm.engine.calls
    weights = (first.path / "model" / "model.safetensors").stat().st_mtime_ns
    again = BootstrapFinetune(same_kind, dict(lm=lm))
    again.compile(dspy.Predict(Sort), trainset=trainset, target=tiny, **SETTINGS)
    assert again.run.id == first.id and lm.engine.calls == calls
    assert (first.path / "model" / "model.safetensors").stat().st_mtime_ns == weights, "not trained again"
    other = BootstrapFinetune(same_kind, dict(lm=lm))
    other.compile(dspy.Predict(Sort), trainset=trainset, target=tiny, **{**SETTINGS, "lr": 1e-3})
    assert other.run.id != first.id and lm.engine.calls == calls
    assert other.run.funnel()["trained"] == first.funnel()["trained"]


class Two(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("words -> guess")
        self.second = dspy.ChainOfThought("guess, words -> kind")

    def forward(self, words):
        return self.second(guess=self.first(words=words).guess, words=words)


@pytest.mark.parametrize("multitask", [True, False])
@pytest.mark.parametrize("template", [None, CHAT])
def test_multitask_is_one_model_or_one_each(tmp_path, multitask, template):
    base = save_llama(tmp_path / "base", template)
    lm = teacher_lm(lambda text: {"reasoning": "It is\nso.", "guess": "thing", **knows(text)})
    tp = BootstrapFinetune(None, dict(lm=lm), multitask)
    student = Two()
    compiled = tp.compile(student, trainset=examples(12, 0), target=base, **SETTINGS)
    lms = [p.lm for p in compiled.predictors()]
    assert (lms[0].model == lms[1].model) == multitask
    assert set(tp.run.funnel()["trained"]) == {"all", "first", "second.predict"}
    assert [p.lm for p in student.predictors()] == [None, None], "the student is not changed"
    assert all(not p.demos for p in compiled.predictors()) and compiled._compiled


def test_the_model_folder_loads_with_transformers_alone(tiny):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))
    compiled = tp.compile(dspy.Predict(Sort), trainset=examples(20, 0), target=tiny, **SETTINGS)
    folder = tp.run.path / "model"
    assert not [p for p in tp.run.path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pickle")]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = json.loads(json.dumps(compiled.lm.engine.adapter.format(Sort, [], {"words": "a cat"})))
    ids = tokenizer("\n\n".join(m["content"] for m in prompt), return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == compiled.lm.engine.codec.prompt(prompt)
    assert model.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]


def test_saved_and_loaded_in_a_fresh_process_gives_the_same_answers(tiny, tmp_path):
    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))
    compiled = tp.compile(dspy.Predict(Sort), trainset=examples(60, 0), target=tiny, bsize=8, lr=3e-3, epochs=6)
    words = [e.words for e in examples(10, 3)]
    answers = [compiled(words=w).kind for w in words]
    compiled.save(tmp_path / "sort.json")
    code = f"""
import json, sys, dspy, bsft_nb
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
words = {words!r}
out = []
for where in ({str(tmp_path / 'sort.json')!r}, {tp.run.id!r}, {str(tp.run.path)!r}):
    program = bsft_nb.load(where)
    out.append([program(words=w).kind for w in words])
print(json.dumps(out))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [answers] * 3


def test_a_program_is_loaded_in_another_dtype_and_keeps_it(tiny, tmp_path):
    tp = BootstrapFinetune(None, dict(lm=teacher_lm(lambda text: {"reasoning": "so", "guess": "thing", **knows(text)})))
    compiled = tp.compile(Two(), trainset=examples(12, 0), target=tiny, **SETTINGS)
    bsft_nb.load(tp.run.id, Two(), dtype="int8").save(tmp_path / "two.json")
    program = bsft_nb.load(tmp_path / "two.json", Two())
    first, second = (p.lm for p in program.predictors())
    assert first is second and first.engine.dtype == "int8" and first.model == compiled.first.lm.model + "-int8"
    assert compiled.first.lm.engine.dtype is None and first.kwargs == compiled.first.lm.kwargs
    assert bsft_nb.load(tmp_path / "two.json", Two(), dtype="float32").first.lm.model == compiled.first.lm.model + "-float32"
    with pytest.raises(ValueError, match="int4.*float32, bfloat16, float16, int8"):
        bsft_nb.load(tp.run.id, Two(), dtype="int4")


def test_a_program_needs_itself_to_be_loaded_and_a_foreign_engine_is_refused(tiny, tmp_path):
    lm = teacher_lm(lambda text: {"reasoning": "So.", "guess": "thing", **knows(text)})
    tp = BootstrapFinetune(None, dict(lm=lm))
    compiled = tp.compile(Two(), trainset=examples(8, 0), target=tiny, bsize=8, lr=5e-3, epochs=60)
    with pytest.raises(ValueError, match="give it too"):
        bsft_nb.load(tp.run.id)
    loaded = bsft_nb.load(tp.run.id, Two())
    assert loaded(words="old oak two red").toDict() == compiled(words="old oak two red").toDict()
    assert loaded.get_lm() is loaded.first.lm
    path = tmp_path / "evil.json"
    compiled.save(path)
    path.write_text(path.read_text().replace("bsft_nb.engine:StudentEngine", "os:system"))
    with pytest.raises(ValueError, match="os:system"):
        bsft_nb.load(path, Two())
    with pytest.raises(FileNotFoundError, match="no run 'none'"):
        bsft_nb.load("none", Two())


def test_its_own_format_whatever_is_set_globally(tiny):
    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))
    compiled = tp.compile(dspy.Predict(Sort), trainset=examples(60, 0), target=tiny, bsize=8, lr=3e-3, epochs=6)
    words = [e.words for e in examples(8, 3)]
    answers = [compiled(words=w).kind for w in words]

    async def gathered():
        return [p.kind for p in await asyncio.gather(*(compiled.acall(words=w) for w in words))]

    for adapter in (dspy.JSONAdapter(), dspy.XMLAdapter()):
        with dspy.context(adapter=adapter, lm=teacher_lm(knows)):
            assert [compiled(words=w).kind for w in words] == answers
            assert [compiled.deepcopy()(words=w).kind for w in words] == answers
            assert [p.kind for p in compiled.batch([dspy.Example(words=w).with_inputs("words") for w in words], num_threads=8, disable_progress_bar=True)] == answers
            assert asyncio.run(gathered()) == answers
    prompt = compiled.lm.history[-1]["messages"][-1]["content"]
    assert prompt.startswith("words: ") and prompt.endswith("kind:")
    compiled.set_lm(teacher_lm(knows))
    assert compiled(words="one owl two red").kind == "tool", "with another LM it is a predictor as any other"


def test_nothing_accepted_is_refused_and_the_traces_are_kept(tiny):
    tp = BootstrapFinetune(lambda e, p, trace=None: False, dict(lm=teacher_lm(knows)))
    with pytest.raises(DataError, match="tried 9, ran 9, parsed 9, accepted 0"):
        tp.compile(dspy.Predict(Sort), trainset=examples(9, 0), target=tiny)
    assert len(tp.run.traces) == 9 and tp.run.status == "failed"


def test_start_returns_at_once_and_stop_ends_within_a_step(tiny):
    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))
    run = tp.start(dspy.Predict(Sort), trainset=examples(40, 0), target=tiny, bsize=4, epochs=10_000)
    while not any(e.kind == "train" for e in run.events):
        time.sleep(0.05)
    assert run.status == "running"
    find_run(run.id).stop_signal.request()  # as another process would
    with pytest.raises(Stopped, match="stopped on request after step"):
        run.result(timeout=20)
    assert run.wait(5) == "stopped" and len(run.traces) >= 30
    shorter = tp.start(dspy.Predict(Sort), trainset=examples(40, 0), target=tiny, bsize=4, epochs=1)
    assert shorter.result(60)(words="one cat two red").kind in KINDS.values()


def test_a_resumed_run_keeps_when_it_was_asked_for_and_adds_its_seconds(tiny):
    tp, asked = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows))), dict(trainset=examples(40, 0), target=tiny, bsize=4, epochs=4, display=False)
    run = tp.start(dspy.Predict(Sort), **asked)
    while not any(e.kind == "train" for e in run.events):
        time.sleep(0.05)
    run.stop()
    assert run.wait(30) == "stopped"
    first = run.info["seconds"]
    run.folder.update(created="2026-01-01 00:00:00")
    tp.compile(dspy.Predict(Sort), **asked)
    state, seconds = state_of(tp.run.path / "events.jsonl"), tp.run.info["seconds"]
    assert (tp.run.id, tp.run.info["created"]) == (run.id, "2026-01-01 00:00:00")
    assert all(seconds[k] >= first[k] for k in first) and sum(seconds.values()) > sum(first.values()) > 0
    assert all(abs(seconds[k.lower()] - v) < 0.5 for k, v in seconds_by_step(state).items()), "those of the events"
    assert [x for x, _ in state.curves["model"]["loss"]][0] == 1 and len(state.curves["model"]["score"]) == 4
    stages = [e.data["stage"] for e in tp.run.events if e.kind == "stage"]
    assert {"bootstrap", "starting trainer", "loading model", "train", "held-out loss", "writing checkpoint", "scoring"} == set(stages) and state.calls == 0 < sum(e.data.get("calls", 0) for e in tp.run.events if e.kind == "stage")


def test_acompile_leaves_the_loop_free(tiny):
    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))

    async def both():
        ticks = 0
        task = asyncio.create_task(tp.acompile(dspy.Predict(Sort), trainset=examples(30, 0), target=tiny, bsize=4, epochs=3))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, await task

    ticks, compiled = asyncio.run(both())
    assert ticks > 20 and compiled(words="one cat two red").kind in KINDS.values()


def test_one_failing_call_costs_one_attempt(tiny):
    def moody(text):
        if "cat" in text:
            raise RuntimeError("rate limit")
        return knows(text)

    lm = teacher_lm(moody)
    lm.num_retries = 0
    trainset = examples(30, 0)
    tp = BootstrapFinetune(same_kind, dict(lm=lm), max_errors=1000)
    tp.compile(dspy.Predict(Sort), trainset=trainset, target=tiny, **SETTINGS)
    failed = [t for t in tp.run.traces if t.reason == "error"]
    assert len(failed) == len({e.words for e in trainset if "cat" in e.words}) > 0
    assert "rate limit" in failed[0].error and "Traceback" in failed[0].error


KILLED = """
import sys, time
sys.path[:0] = {tests!r}
import dspy
from bsft_nb.lessons import teacher_lm
from sorting import Sort, examples, knows, same_kind
from bsft_nb import BootstrapFinetune

dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)

def slow(text):
    time.sleep(0.05)
    return knows(text)

lm = teacher_lm(slow)
tp = BootstrapFinetune(same_kind, dict(lm=lm), num_threads=2)
tp.compile(dspy.Predict(Sort), trainset=examples(60, 0), target={base!r}, bsize=8)
print("calls", lm.engine.calls)
"""


def test_killed_while_bootstrapping_repeats_no_completed_call(tiny, tmp_path):
    code = KILLED.format(tests=[str(p) for p in Path(__file__).parents[:2]], base=str(tiny))
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledgers = tmp_path / "home" / "traces"
    done, until = 0, time.monotonic() + 60
    while done < 15 and time.monotonic() < until:
        time.sleep(0.01)
        done = sum(len(read_lines(p)) for p in ledgers.glob("*.jsonl"))
    first.kill()
    first.wait()
    done = sum(len(read_lines(p)) for p in ledgers.glob("*.calls"))  # a kill may come between an answer and its attempt
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    calls = int(second.stdout.splitlines()[-1].split()[1])
    assert done >= 15 and calls == len({e.words for e in examples(60, 0)}) - done


LEFT = """
import sys, time; sys.path[:0] = {tests!r}
import dspy
from bsft_nb.lessons import teacher_lm
from sorting import Sort, examples, knows, same_kind
from bsft_nb import BootstrapFinetune
tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))
run = tp.start(dspy.Predict(Sort), trainset=examples(40, 0), target={base!r}, bsize=2, epochs=1000, display=False)
while not any(e.kind == "train" for e in run.events):
    time.sleep(0.05)
print(run.id)
"""


def test_a_process_that_ends_stops_its_run(tiny):
    code = LEFT.format(tests=[str(p) for p in Path(__file__).parents[:2]], base=str(tiny))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert find_run(done.stdout.split()[-1]).status == "stopped"


def test_inside_better_together(tiny):
    lm = teacher_lm(knows)
    student = dspy.Predict(Sort)
    student.set_lm(lm)
    w = BootstrapFinetune(same_kind, train_kwargs={lm: dict(num_train_epochs=2, learning_rate=3e-3, output_dir="there")}, adapter=bsft_nb.StudentAdapter(full_instructions=True), exclude_demos=True)
    better = dspy.BetterTogether(metric=same_kind, w=w)
    arguments = {"w": dict(target=tiny, bsize=8)}
    found = better.compile(student, trainset=examples(30, 0), strategy="w", valset_ratio=0, optimizer_compile_args=arguments)  # the last program, not the best: the teacher is never wrong
    assert not found.flag_compilation_error_occurred and found.lm.model.startswith("bsft/") and lm.engine.calls > 0
    assert (w.run.info["config"]["epochs"], w.run.info["config"]["lr"], found.lm.engine.adapter.full_instructions) == (2, 3e-3, True)
    said = [e.data["note"] for e in w.run.events if e.kind == "warn"]
    assert "compile(epochs=2, lr=0.003)" in said[0] and "output_dir='there' has no effect" in said[1]


class Heard(dspy.utils.callback.BaseCallback):
    def __init__(self):
        self.calls = []

    def on_compile_start(self, call_id, instance, inputs):
        self.calls.append([call_id, type(instance), sorted(inputs)])

    def on_compile_end(self, call_id, outputs, exception=None):
        assert self.calls[-1][0] == call_id
        self.calls[-1] += [type(outputs), exception]


def test_dspys_callbacks_see_compile_start_and_acompile_alike(tiny, tmp_path):
    tp, heard = BootstrapFinetune(same_kind, teacher_settings=dict(lm=teacher_lm(knows))), Heard()
    call = dict(trainset=examples(12, 0), target=tiny, bsize=8, run_dir=tmp_path, display=False)
    with dspy.context(callbacks=[heard]):
        tp.compile(dspy.Predict(Sort), **call)
        tp.start(dspy.Predict(Sort), **call).result()
        asyncio.run(tp.acompile(dspy.Predict(Sort), **call))
    ids, *_ = zip(*heard.calls, strict=True)
    assert len(set(ids)) == 3 and all(c[1:] == heard.calls[0][1:] for c in heard.calls)
    assert heard.calls[0][1] is BootstrapFinetune and {"student", "trainset", "target"} <= set(heard.calls[0][2]) and heard.calls[0][4] is None
