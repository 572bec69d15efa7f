"""A program that uses the public names, for `make types`: what is right passes, and each line with an `ignore` has to be an error. It is never run."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
from typing_extensions import assert_type

from bsft_nb import (
    BootstrapFinetune,
    StudentAdapter,
    TorchRun,
    attach,
    cascade,
    load,
    predict,
)
from bsft_nb.optimizer.preflight import Preflight
from bsft_nb.optimizer.run import Run
from bsft_nb.routing.cascade import Cascade
from bsft_nb.routing.predictors import PredictorCascade


def accept(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def used(program: dspy.Module, trainset: list[dspy.Example]) -> None:
    tp = BootstrapFinetune(metric=accept, teacher_settings=dict(lm=dspy.LM("openai/gpt-5")), max_rounds=2, hints="label", price=(1.0, 2.0))
    compiled = tp.compile(program, trainset=trainset, target=Path("model"), lr="auto", peft=True, adapter=StudentAdapter(), launch=TorchRun(workers=2))
    assert_type(tp.preflight(student=program, trainset=trainset, target="smollm2-135m"), Preflight)
    assert_type(tp.start(program, trainset=trainset), Run)
    assert_type(attach("rag-1a2b3c4d"), Run)
    assert_type(cascade(compiled, program, accept, examples=trainset, retain=0.9), Cascade | PredictorCascade)
    load("rag.json", program)
    predict(program, [{"question": "Where?"}], inputs=["question"])


def misused(program: dspy.Module, trainset: list[dspy.Example]) -> None:
    BootstrapFinetune(metric="exact")  # type: ignore[arg-type]
    BootstrapFinetune(max_rouns=2)  # type: ignore[call-arg]
    tp = BootstrapFinetune(hints="labels")  # type: ignore[arg-type]
    tp.compile(program)  # type: ignore[call-arg]
    tp.compile(program, trainset=trainset, launch="slurm")  # type: ignore[arg-type]
    tp.compile(program, trainset=trainset, epochs="3")  # type: ignore[arg-type]
    cascade(program, program, accept, examples=trainset, samples="5")  # type: ignore[arg-type]
