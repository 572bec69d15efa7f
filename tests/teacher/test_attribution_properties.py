"""Generated programs: each call is attributed to the predictor that made it, in whatever shape the program calls it."""
import re
import tempfile
from pathlib import Path

import dspy
from dspy.lm15 import Message, Response, Usage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsft_nb.teacher.bootstrap import TraceBootstrapper
from bsft_nb.teacher.replay import copy_program

TASK = dspy.Signature("text -> said")  # all predictors have the same fields; only their instructions differ

STEPS = st.recursive(
    st.tuples(st.sampled_from(["call", "foreign"]), st.integers(0, 3)),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["sequence", "parallel"]), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("loop"), st.integers(0, 3), inner),
        st.tuples(st.just("branch"), inner, inner),
        st.tuples(st.just("nested"), st.integers(0, 2), inner),
    ),
    max_leaves=6,
)
PREDICTORS = st.lists(st.tuples(st.sampled_from([dspy.Predict, dspy.ChainOfThought]), st.booleans()), min_size=4, max_size=4)


class Generated(dspy.Module):
    "Runs the steps of `plan`. `owned` are its predictors; those of `shared` are also its parents'."

    def __init__(self, name, plan, kinds, shared):
        super().__init__()
        self._plan = plan
        self.own = {str(i): shared[i] if again else kind(TASK.with_instructions(f"I am {name}-{i}.")) for i, (kind, again) in enumerate(kinds)}
        self.parts = [Generated(f"{name}{i}", None, kinds, shared) for i in range(3)] if len(name) < 3 else []

    def forward(self, text, plan=None):
        said = self.run(plan or self._plan, text)
        return dspy.Prediction(said=said)

    def run(self, plan, text) -> str:
        kind, *rest = plan
        if kind == "call":
            return self.own[str(rest[0])](text=text).said
        if kind == "foreign":
            return dspy.Predict(TASK.with_instructions(f"I am foreign-{rest[0]}."))(text=text).said
        if kind == "sequence":
            return [self.run(p, text) for p in rest[0]][-1]
        if kind == "parallel":
            pairs = [(_Step(self, p), {"text": text}) for p in rest[0]]
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)[-1]
        if kind == "loop":
            return "".join(self.run(rest[1], f"{text} {i}") for i in range(rest[0]))
        if kind == "branch":
            return self.run(rest[len(text) % 2], text)
        return self.parts[rest[0]](text=text, plan=rest[1]).said if self.parts else self.run(rest[1], text)


class _Step(dspy.Module):
    def __init__(self, owner, plan):
        super().__init__()
        self._owner, self._plan = owner, plan

    def forward(self, text):
        return self._owner.run(self._plan, text)


class Echo:
    "An LM that says who asks, going by the instructions, and notes it."

    def __init__(self):
        self.said = []

    def complete(self, request):
        who = re.search(r"I am ([\w-]+)\.", request.system)[1]
        text = re.search(r"## text ## \]\]\n(.*)", request.messages[-1].text)[1]
        self.said.append((who, text))
        answer = f"[[ ## reasoning ## ]]\nSo.\n\n[[ ## said ## ]]\n{who}\n\n[[ ## completed ## ]]"
        return Response(id=None, model=request.model, message=Message.assistant(answer), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=STEPS, kinds=PREDICTORS, data=st.data())
def test_every_call_is_attributed_to_the_predictor_that_made_it(plan, kinds, data):
    lm = dspy.LM("echo/teacher", engine=Echo(), cache=False)
    shared = [kind(TASK.with_instructions(f"I am shared-{i}.")) for i, (kind, _) in enumerate(kinds)]
    program = Generated("a", plan, kinds, shared)
    examples = [dspy.Example(text=t).with_inputs("text") for t in data.draw(st.lists(st.sampled_from(["x", "yy", "z z"]), min_size=1, max_size=2, unique=True))]
    boot = TraceBootstrapper(metric=lambda *_: True, teacher_settings={"lm": lm}, max_errors=1)
    with tempfile.TemporaryDirectory() as folder:
        traces = list(boot.collect([program], examples, Path(folder) / "traces.jsonl", num_threads=1))
    owner = {name: p.signature.instructions for name, p in copy_program(program).named_predictors()}
    for call in (c for t in traces for c in t.calls):
        assert owner[call.predictor].startswith(f"I am {call.outputs['said']}."), "its own words, under its own name"
    assert all(c.outputs["said"].startswith("foreign") and c.predictor == "text -> said" for t in traces for c in t.outside)
    written = [(c.outputs["said"], c.inputs["text"]) for t in traces for c in [*t.calls, *t.outside]]
    assert sorted(written) == sorted(lm.engine.said), "no call is missing, none is there twice"
