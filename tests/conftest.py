"""Small real models, made on the spot, and scripted teachers (for plumbing only)."""
import logging
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dspy
import pytest

from bsft_nb.lessons import CHAT, save_llama, save_t5

sys.path.append(str(Path(__file__).parent / "bench"))  # its stand-ins of families, its teacher

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell without job control starts what it puts behind like this; interrupts are tested
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes a minute; `make test` runs it, `.ci/run` does not")


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    "Each test has its own run folder, no DSPy cache and no global LM."
    monkeypatch.setenv("BSFT_HOME", str(tmp_path / "home"))
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    dspy.configure(lm=None, adapter=None)
    logging.getLogger("dspy").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def chat_llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("chat"), CHAT)


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"), ["the quick brown fox", "question answer team urgency", "0 1 2 3 4 5 6 7 8 9 %0A"] * 20)
