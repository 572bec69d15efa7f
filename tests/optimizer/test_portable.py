"""A run that was packed answers the same in a fresh process, under another home, when nothing of the old place is left."""
import json
import os
import shutil
import subprocess
import sys

import dspy
import pytest
from sorting import Sort, examples, knows, same_kind

import bsft_nb
from bsft_nb import BootstrapFinetune
from bsft_nb.lessons import CHAT, save_llama, teacher_lm
from bsft_nb.models.weights import TargetError
from bsft_nb.optimizer.portable import pack

ASK = """
import json, sys
sys.path.insert(0, sys.argv[3])
import dspy, bsft_nb
from sorting import Sort
program = bsft_nb.load(sys.argv[1], dspy.Predict(Sort))
print(json.dumps([program(words=w).kind for w in json.loads(sys.argv[2])]))
"""


def test_a_packed_lora_student_needs_nothing_of_where_it_was_made(tmp_path):
    base = save_llama(tmp_path / "base", CHAT)
    tp = BootstrapFinetune(same_kind, dict(lm=teacher_lm(knows)))
    compiled = tp.compile(dspy.Predict(Sort), trainset=examples(24, 0), target=base, bsize=8, lr=3e-3, epochs=1, peft=True)
    words = [e.words for e in examples(8, 1)]
    before = [compiled(words=w).kind for w in words]
    compiled.lm.engine.close()
    whole, thin = tp.run.pack(tmp_path / "whole.tar"), pack(tp.run, tmp_path / "thin.tar", base=False)
    shutil.rmtree(tp.run.path)
    shutil.rmtree(base)
    env = {**os.environ, "BSFT_HOME": str(tmp_path / "elsewhere")}
    done = subprocess.run([sys.executable, "-c", ASK, str(whole), json.dumps(words), os.path.dirname(sys.modules["sorting"].__file__)], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == before
    assert str(os.uname().nodename) not in (tmp_path / "elsewhere/runs" / tp.run.id / "run.json").read_text()
    with pytest.raises(TargetError, match="needs its base, which is not here"):
        bsft_nb.load(thin, dspy.Predict(Sort))
