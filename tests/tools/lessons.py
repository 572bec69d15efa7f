"""`nbdev_test`, and the text that each cell's saved output shows is compared with what the cell gives today, timings and sizes of memory aside.

    python tests/tools/lessons.py [--short] [--save] [OPTION OF nbdev_test ...]

--save writes today's texts into the notebooks; --short leaves out the lessons that train for long.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

import nbdev.test

LONG = ("quickstart.ipynb", "agent.ipynb", "cascade.ipynb", "classification.ipynb", "cluster.ipynb", "extraction.ipynb", "multi_hop.ipynb", "prompts_then_weights.ipynb", "rag_t5.ipynb")  # tutorials
MEASURED = re.compile(r"(?<='seconds': )[\d.]+|(?<![\w.])[\d,]*\d(\.\d+)?(e-?\d+)?\s?(ms|s|sec|seconds?|min|minutes?|h|[KMG]i?B|W|times|%/s)(?![\w])|\b\d{4}-\d\d-\d\dT?[\d:. ]*|\b\d\d:\d\d(:\d\d)?\b")
NAMES = re.compile(r" at 0x[0-9a-f]+|\b(?=[a-z]*\d)[0-9a-f]{8,}\b|(?<=process )\d+|(?<=pid )\d+")
SAVE = False


def text_of(cell: dict) -> str | None:
    "What a cell's outputs show as text; `None` where they show something else too, or nothing."
    outputs = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
    texts = [o.get("text") if o["output_type"] == "stream" else o.get("data", {}).get("text/plain") for o in outputs if set(o.get("data", {})) <= {"text/plain"}]
    return "".join("".join(t) for t in texts).strip() if texts and len(texts) == len(outputs) else None


def differences(saved: dict[str, str | None], now: dict[str, str | None]) -> list[str]:
    "A sentence for each cell that shows another text than the one saved."
    found = {i: now[i] or "" for i in now if saved.get(i) is not None and measured(saved[i]) != measured(now[i] or "")}
    return [f"cell {i} shows\n{text}\nbut the notebook has saved\n{saved[i]}\nRun: python tests/tools/lessons.py --save --path <notebook>" for i, text in found.items()]


def measured(text: str) -> str:
    "`text` without what differs from one machine, or one moment, to another."
    return MEASURED.sub("#", NAMES.sub("", text)).strip()


class Shell(nbdev.test.CaptureShell):
    "nbdev's shell for tests, which looks at the outputs when a notebook has been executed."

    def run_all(self, nb, **options):
        saved, ran = {c["id"]: text_of(c) for c in nb.cells if c.cell_type == "code"}, {}
        super().run_all(nb, **options, postproc=lambda cell: ran.update({cell["id"]: cell.get("outputs", [])}))
        alike = Path(nb.path_).name not in LONG  # what a real training gives differs between machines
        if found := alike and differences(saved, {i: text_of({"outputs": o}) for i, o in ran.items()}):
            if not SAVE:
                self.exc = AssertionError("\n\n".join(found))
                raise self.exc
            save_texts(Path(nb.path_), {i: o for i, o in ran.items() if saved.get(i) is not None})


def save_texts(path: Path, outputs: dict):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["id"] in outputs:
            cell["outputs"] = json.loads(json.dumps([o for o in outputs[cell["id"]] if o.get("name") != "stderr"], sort_keys=True))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    subprocess.run([Path(sys.executable).with_name("nbdev_clean"), "--fname", str(path)], check=True)


if __name__ == "__main__":
    SAVE, short = "--save" in sys.argv, "--short" in sys.argv
    sys.argv = [a for a in sys.argv if a not in ("--save", "--short")]
    if short:
        sys.argv += ["--skip_file_re", "^[_.]|^(" + "|".join(map(re.escape, LONG)) + ")$"]
    nbdev.test.CaptureShell = Shell
    nbdev.test.nbdev_test()
