"""OpenAI's files, fine-tuning jobs and chats on loopback, with faults on demand. Prints its port.

A model that was fine-tuned sorts words as `sorting.knows` does; any other answers in no format. A job takes SECONDS.
`POST /admin` sets `faults` (which call → a list, one entry for each call: `429`, `500`, `500 after`, `lost`, `lost after`,
`hang after`, where `after` means that the call was carried out) and `fail` (the message with which jobs fail); `GET /admin` tells what was done.
"""
import email
import itertools
import json
import re
import sys
import time
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
FILES, JOBS, FAULTS, COUNTS = {}, {}, {}, {"uploads": 0, "jobs": 0, "cancelled": 0, "calls": []}
numbers, fail = itertools.count(1), {"with": ""}


def file_row(name, content):
    found = {"id": f"file-{next(numbers)}", "object": "file", "bytes": len(content), "created_at": int(time.time()), "filename": name, "purpose": "fine-tune", "status": "processed"}
    FILES[found["id"]] = (found, content)
    COUNTS["uploads"] += 1
    return found


def job_row(body):
    n = next(numbers)
    job = {"id": f"ftjob-{n}", "object": "fine_tuning.job", "created_at": int(time.time()), "model": body["model"], "training_file": body["training_file"], "metadata": body.get("metadata"), "user_provided_suffix": body.get("suffix"),
           "hyperparameters": body.get("hyperparameters") or {}, "organization_id": "o", "result_files": [], "seed": body.get("seed", 0), "status": "queued", "fine_tuned_model": None, "trained_tokens": None, "error": None, "finished_at": None, "validation_file": None, "made": time.monotonic()}
    JOBS[job["id"]] = job
    COUNTS["jobs"] += 1
    return job


def now(job):
    "The job as it stands."
    passed = time.monotonic() - job["made"]
    if job["status"] in ("queued", "running"):
        job["status"] = "queued" if passed < SECONDS / 4 else "running" if passed < SECONDS else "failed" if fail["with"] else "succeeded"
        if job["status"] == "failed":
            job["error"] = {"code": "invalid_training_file", "message": fail["with"], "param": "training_file"}
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": f"ft:{job['model']}:o:{job['user_provided_suffix']}:{job['id']}", "trained_tokens": len(FILES[job["training_file"]][1]) // 4}
    return {k: v for k, v in job.items() if k != "made"}


def events(job):
    "Four of them, the newest first, as far as time has gone."
    at = [(0, "Created the job", {}), (SECONDS / 4, "Training began", {}), (SECONDS / 2, "Step 5/10", {"step": 5, "total_steps": 10, "train_loss": 0.5}), (SECONDS * 0.9, "Step 10/10", {"step": 10, "total_steps": 10, "train_loss": 0.25})]
    passed = time.monotonic() - job["made"]
    return [{"id": f"ftevent-{i}", "object": "fine_tuning.job.event", "created_at": 0, "level": "info", "message": m, "type": "metrics" if d else "message", "data": d} for i, (t, m, d) in enumerate(at) if t <= passed][::-1]


def chat(body):
    from sorting import knows

    told = body["model"].startswith("ft:")
    if told and body["model"] not in {j["fine_tuned_model"] for j in JOBS.values()}:
        return None
    kind = knows(body["messages"][-1]["content"])["kind"]
    text = f"[[ ## kind ## ]]\n{kind}\n\n[[ ## completed ## ]]" if told else "I could not say."
    return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        "Quiet."

    def answer(self, body, status=200, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def call(self, name, work):
        "Do `work` and answer, or fail as was asked for."
        COUNTS["calls"].append(name)
        fault = FAULTS.get(name, []).pop(0) if FAULTS.get(name) else ""
        made = work() if not fault or fault.endswith("after") else None
        if fault.startswith("hang"):
            time.sleep(3600)
        if fault.startswith("lost"):
            self.close_connection = True
            return self.connection.close()
        if fault == "429":
            return self.answer({"error": {"message": "slow down", "type": "requests"}}, 429, Retry_After="0.2")
        if fault.startswith("500"):
            return self.answer({"error": {"message": "broken"}}, 500)
        self.answer(made if made is not None else {"error": {"message": "there is no such thing", "code": "not_found"}}, 200 if made is not None else 404)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def uploaded(self, raw):
        parts = email.message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + raw, policy=HTTP)
        part = next(p for p in parts.iter_parts() if p.get_filename())
        return file_row(part.get_filename(), part.get_payload(decode=True))

    def do_POST(self):
        path, raw = self.path.split("?")[0], self.body()
        if path == "/admin":
            asked = json.loads(raw)
            FAULTS.update(asked.get("faults", {}))
            fail["with"] = asked.get("fail", "")
            return self.answer({})
        if path == "/v1/files":
            return self.call("upload", lambda: self.uploaded(raw))
        if path == "/v1/fine_tuning/jobs":
            return self.call("create", lambda: now(job_row(json.loads(raw))))
        if found := re.fullmatch(r"/v1/fine_tuning/jobs/([\w-]+)/cancel", path):
            COUNTS["cancelled"] += 1
            JOBS[found[1]]["status"] = "cancelled"
            return self.call("cancel", lambda: now(JOBS[found[1]]))
        self.call("chat", lambda: chat(json.loads(raw)))

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/admin":
            return self.answer({**COUNTS, "files": [c.decode() for _, c in FILES.values()], "all_jobs": [now(j) for j in JOBS.values()]})
        if path == "/v1/files":
            return self.call("files", lambda: {"object": "list", "data": [f for f, _ in FILES.values()], "has_more": False})
        if path == "/v1/fine_tuning/jobs":
            return self.call("jobs", lambda: {"object": "list", "data": [now(j) for j in JOBS.values()][::-1], "has_more": False})
        if found := re.fullmatch(r"/v1/fine_tuning/jobs/([\w-]+)/events", path):
            return self.call("events", lambda: {"object": "list", "data": events(JOBS[found[1]]), "has_more": False})
        found = re.fullmatch(r"/v1/fine_tuning/jobs/([\w-]+)", path)
        self.call("look", lambda: now(JOBS[found[1]]) if found and found[1] in JOBS else None)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
