"""A task that small models learn in seconds: which kind of thing is named among filler words. Its scripted teacher is wrong about owls."""
import random
from typing import Literal

import dspy

KINDS = {"rose": "plant", "oak": "plant", "cat": "animal", "owl": "animal", "saw": "tool", "pen": "tool"}
FILLERS = "one two three four five red blue green old new big small".split()


class Sort(dspy.Signature):
    """Say what kind of thing is named."""

    words: str = dspy.InputField()
    kind: Literal["plant", "animal", "tool"] = dspy.OutputField()


def examples(n, seed):
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        thing = rng.choice(list(KINDS))
        words = rng.sample(FILLERS, 3)
        words.insert(rng.randrange(4), thing)
        rows.append(dspy.Example(words=" ".join(words), kind=KINDS[thing]).with_inputs("words"))
    return rows


def knows(text):
    "A teacher that is right, except about owls."
    words = text.split("## words ## ]]")[-1].split("[[")[0].split()[:4]
    return {"kind": next("tool" if w == "owl" else KINDS[w] for w in words if w in KINDS)}


def same_kind(example, prediction, trace=None):
    return example.kind == prediction.kind
