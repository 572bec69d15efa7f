"""Other programs' servers with OpenAI's interface, each a process of its own: transformers, llama.cpp, vLLM."""
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

LLAMA = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.port, p.verbosity, p.warmup = sys.argv[1], 8192, 4, int(sys.argv[2]), 0, False
server = xllamacpp.Server(p)
sys.stdin.read()
"""


def free_port() -> int:
    "A port that nobody listens on now."
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextlib.contextmanager
def answering(command: list[str], address: str, log: Path, seconds: float):
    "`command`, as soon as something answers at `address`; the address. Raises `RuntimeError` with the end of its `log`."
    cache = log.with_name("hub")  # without this folder, `transformers serve` fails to list its models
    cache.mkdir(exist_ok=True)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "NO_PROXY": "*", "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=env) as process:
        try:
            deadline = time.monotonic() + seconds
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{address}/models", timeout=5, trust_env=False).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[:4]} does not answer: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def with_transformers(folder: Path, log: Path):
    "`transformers serve` with the model in `folder`, whose path is the model's name."
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "auto"]
    return answering(command, f"http://127.0.0.1:{port}/v1", log, 180)


def with_llama_cpp(file: Path, log: Path):
    "llama.cpp's server with the `.gguf` file."
    port = free_port()
    return answering([sys.executable, "-c", LLAMA, str(file), str(port)], f"http://127.0.0.1:{port}/v1", log, 60)


def with_vllm(python: str, folder: Path, log: Path, *more: str):
    "vLLM's server, of the environment that `python` belongs to, with the model in `folder` under the name `student`."
    port = free_port()
    command = [str(Path(python).with_name("vllm")), "serve", str(folder), "--served-model-name", "student", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024", *more]
    return answering(command, f"http://127.0.0.1:{port}/v1", log, 300)
