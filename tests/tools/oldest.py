"""`constraints-min.txt`: the lowest versions that the bounds in settings.ini allow, and what fits them. torch is the machine's choice, see the Makefile.

    pip install uv && python tests/tools/oldest.py
"""
import re
import subprocess
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("peft", "serve", "lab")
TESTS = ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6.100", "bm25s>=0.2", "pytest-jupyter>=0.10"]
TORCH = re.compile(r"^(torch|triton|nvidia-|cuda-)", re.M)
HEAD = "# The lowest versions that settings.ini allows, as tests/tools/oldest.py resolved them; `make test-oldest` takes them. torch is left to the machine.\n"


def bounds() -> list[str]:
    "The requirements of the package and of the extras that are tested."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    names = ["requirements", *(f"{e}_requirements" for e in EXTRAS)]
    return [r for n in names for r in settings["DEFAULT"][n].split()] + TESTS


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile("w", suffix=".in") as f:
        f.write("\n".join(bounds()) + "\n")
        f.flush()
        asked = ["uv", "pip", "compile", "--python-version", "3.11", "--no-build", "--resolution", "lowest-direct", "--no-annotate", "--no-header", "-q", f.name]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    (ROOT / "constraints-min.txt").write_text(HEAD + "\n".join(line for line in found if not TORCH.match(line)) + "\n", encoding="utf-8")
