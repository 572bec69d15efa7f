"""Training in this process and in one of its own: same result, kills, stops, interrupts, scores, dead jobs."""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from test_trainer import a_job, losses, same, weights

from bsft_nb.checkpoints import checkpoints, newest, scores
from bsft_nb.events import Stopped
from bsft_nb.jobs import Job
from bsft_nb.launch import Busy, Died, claim, collect, launch
from bsft_nb.runs import RunFolder, alive, attach, read_json, this_process, write_json


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


def test_a_process_of_its_own_makes_the_same_student(llama, tmp_path):
    here, run = a_job(tmp_path, llama, "here")
    seen = []
    launch([here], run)
    there, run = a_job(tmp_path, llama, "there")
    run.log.subscribe(seen.append)
    made = launch([there], run, "process")
    assert made == {"model": there.student} and same(weights(there.student), weights(here.student))
    assert run.trainer["pid"] != os.getpid() and run.trainer["status"] == "trained" and not alive(run.trainer)
    assert [(e.kind, e.t) for e in seen] == [(e.kind, e.t) for e in run.log.read()], "subscribers here saw its events, each once"
    assert {"train", "eval", "checkpoint"} <= {e.kind for e in seen}
    assert sorted(p.name for p in there.checkpoints.iterdir()) == ["step-18", "training.json"] or len(checkpoints(there.checkpoints)) == 1
