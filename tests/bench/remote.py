"""Kill a compile whose target is trained by a provider three times, at the worst moments, and see what was paid for.

    python tests/bench/remote.py [--quick]

The provider is a service on loopback that speaks OpenAI's files and fine-tuning jobs (`finetune_server.py`). The process
is killed when the service has stored the file and not answered, when it has made the job and not answered, and while it
waits for the job. The fourth process comes to the end. The last line is a JSON object: `remote` says how many `jobs` and `uploads`
the service has seen. There is nothing to make quicker: `--quick` does the same.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent


@contextlib.contextmanager
def service(seconds: float = 1.0):
    "The port of a service whose jobs take so many seconds."
    with subprocess.Popen([sys.executable, str(HERE / "finetune_server.py"), str(seconds)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def admin(port: str, **asked) -> dict:
    "What the service has done; with `faults` or `fail`, ask for some."
    data = json.dumps(asked).encode() if asked else None
    return json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/admin", data, timeout=60))


def killed_when(port: str, folder: Path, ready, log) -> int:
    "Begin a compile, and kill it when `ready(what the service has done)`. Returns its exit code."
    process = subprocess.Popen([sys.executable, str(HERE / "remote_compile.py"), port, str(folder)], stdout=log, stderr=log)
    while process.poll() is None and not ready(admin(port)):
        time.sleep(0.05)
    if process.poll() is None:
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    return process.wait()


MOMENTS = [  # a fault of the service, and when to kill
    ({"upload": ["hang after"]}, lambda done: done["uploads"]),
    ({"create": ["hang after"]}, lambda done: done["jobs"]),
    ({"look": ["hang after"]}, lambda done: "look" in done["calls"]),
]


def killed(folder: Path) -> dict:
    "Kill at each of the moments, then come to the end."
    with service() as port, open(folder / "log.txt", "w") as log:
        codes = []
        for faults, ready in MOMENTS:
            admin(port, faults=faults)
            codes.append(killed_when(port, folder / "run", ready, log))
        codes.append(killed_when(port, folder / "run", lambda done: False, log))
        done = admin(port)
    return {"jobs": done["jobs"], "uploads": done["uploads"], "exit_codes": codes, "status": json.loads((folder / "run/run.json").read_text())["status"]}


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BSFT_HOME"] = folder
        found = killed(Path(folder))
    print(json.dumps({"remote": found}))


if __name__ == "__main__":
    main()
