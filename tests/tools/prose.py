"""README and site, read by proselint and by the words of this house; code, formulas and addresses aside.

    python tests/tools/prose.py [FILE ...]

It prints each finding as FILE: what is wrong (the place), and the number of pages. Exit 1 where there is one.
"""
import json
import re
import sys
from pathlib import Path

from proselint.checks import __register__
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted(p for p in (ROOT / "nbs").rglob("*") if p.suffix in (".ipynb", ".md") and not p.name.startswith("_") and ".ipynb_checkpoints" not in p.parts)]
LONGEST = 50  # words in a sentence
FINE = ("on the spot", "token by token by")  # which proselint takes for something else

# what is written otherwise here, as a pattern and what stands for it
WORDS = {
    r"fine ?tun(e|ed|es|ing)": "fine-tune, with a hyphen",
    r"pre-train\w*": "pretrain",
    r"heldout": "held out, held-out",
    r"learnt": "learned",
    r"Dspy|DSPY|(?<![\w.])dspy's": "DSPy",
    r"Pytorch|pytorch": "PyTorch",
    r"Jupyter Lab|Jupyterlab": "JupyterLab",
    r"Huggingface|HuggingFace": "Hugging Face",
    r"Lora|LORA": "LoRA",
    r"peft (adapter|model)s?": "LoRA adapter",
    r"tokeni[sz]ation budget": "length",
    r"utili[sz]e\w*|leverag(e|es|ing)": "use",
    r"[Ii]n order to": "to",
    r"can not": "cannot",
    r"simply|obviously|easily|of course|[Pp]lease": "nothing: leave it out",
    r"performant|seamless\w*|blazing\w*|robust(ly)?|powerful": "a figure, or nothing",
    r"a LLM": "an LLM",
    r"TODO|FIXME|XXX": "an issue",
}
# of proselint's checks those that find what this house means
TASTE = {"typography": False, "terms": False, "social_awareness": False, "hedging": False, "psychology": False, "uncomparables": False, "restricted": False}

CheckRegistry().register_many(__register__)


def prose(path: Path) -> str:
    "The sentences of a page, without code, formulas, addresses and the bars of tables; code within a sentence is the word `X`."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    text = re.sub(r"^(```+|~~~+).*?^\1\s*$", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$|(?<![\w$])\$[^$\n]+\$|<!--.*?-->", " ", text, flags=re.S)
    text = re.sub(r"`[^`\n]+`", "X", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)\s]*\)|https?://\S+", r"\1", text)
    return re.sub(r"^\|[-| :]+\|$", "", re.sub(r"(?<=.)\|(?=.)|^\||\|$", "\n", text, flags=re.M), flags=re.M)


def sentences(text: str) -> list[str]:
    "The sentences, on one line each."
    parts = re.split(r"(?<=[.!?:;])\s+(?=[A-Z\"“])|\n", text)  # no page breaks its lines
    return [" ".join(p.split()) for p in parts if p.strip()]


def findings(text: str) -> list[str]:
    "What is wrong, with a few words around it."
    checks = {**DEFAULT, "checks": {**DEFAULT["checks"], **TASTE}}
    spans = [(r.check_result.message, *(p - 1 for p in r.check_result.span)) for r in LintFile("page", text).lint(checks)] if text.strip() else []
    found = [f"{says} ({around(text, begin, end)})" for says, begin, end in spans if (what := text[begin:end].strip()) not in FINE and "\n" not in what]  # a heading's words may begin the next line
    for pattern, instead in WORDS.items():
        found += [f"{m[0]!r}: here it is {instead} ({around(text, *m.span())})" for m in re.finditer(rf"(?<![\w-])({pattern})(?![\w-])", text)]
    return found + [f"a sentence of {n} words ({s[:60]} …)" for s in sentences(text) if (n := len(s.split())) > LONGEST]


def around(text: str, begin: int, end: int) -> str:
    return " ".join(text[max(0, begin - 30) : end + 30].split())


if __name__ == "__main__":
    pages = [Path(a).absolute() for a in sys.argv[1:]] or PAGES
    wrong = [f"{p.relative_to(ROOT)}: {f}" for p in pages for f in findings(prose(p))]
    print("\n".join([*wrong, f"{len(pages)} pages, {len(wrong)} findings"]))
    sys.exit(bool(wrong))
