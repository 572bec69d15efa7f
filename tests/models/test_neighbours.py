"""Other processes want the cores too: a process that trains is told how its threads wait, and a user's setting stays."""
import json
import os

import pytest

from bsft_nb.models.neighbours import SETTINGS, brief_waits
from bsft_nb.run.folder import RunFolder
from bsft_nb.training.launcher import start_process

CODE = f"import json, os; print(json.dumps({{k: os.environ[k] for k in {SETTINGS!r} if k in os.environ}}))"


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "300000"}, {"KMP_BLOCKTIME": "200"}, {"OMP_WAIT_POLICY": ""}])
def test_a_training_process_waits_briefly_unless_the_user_says_how(own, monkeypatch, tmp_path):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    before, run = dict(os.environ), RunFolder(tmp_path / "run")
    assert start_process(run, CODE, []).wait() == 0
    said, seen = (run / "train.log").read_text().splitlines()
    decided = {k: v for k, v in own.items() if v}
    assert {k: v for k, v in json.loads(seen).items() if v} == {**decided, **brief_waits(own)[0]}
    assert all(f"{k}={v}" in said for k, v in decided.items()) and ("as the environment says" in said) == bool(decided)
    assert dict(os.environ) == before, "the caller's own environment is not touched"
