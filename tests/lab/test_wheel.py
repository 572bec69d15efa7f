"""What users install: the wheel holds the package, the built JupyterLab extension, and what enables both."""
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAB, CONFIG = "share/jupyter/labextensions/bsft_nb", "etc/jupyter/jupyter_server_config.d/bsft_nb.json"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    "Built from this folder, without leaving anything in it."
    place = tmp_path_factory.mktemp("wheel")
    steps = ["egg_info", "--egg-base", place, "build", "--build-base", place / "build", "bdist_wheel", "--bdist-dir", place / "made", "--dist-dir", place / "dist"]
    done = subprocess.run([sys.executable, "setup.py", "-q", *map(str, steps)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next((place / "dist").glob("*.whl")))


def test_the_wheel_holds_every_module_and_no_test(wheel):
    names = set(wheel.namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "bsft_nb").rglob("*.py") if "__pycache__" not in p.parts}
    assert modules <= names and {n for n in names if n.endswith(".jsonl")} == {p.relative_to(ROOT).as_posix() for p in (ROOT / "bsft_nb/demo").glob("*.jsonl")}
    assert not [n for n in names if re.match(r"(tests|nbs|lab)/", n) or "node_modules" in n or n.endswith((".ts", ".tsx"))]


def test_the_wheel_puts_the_extension_where_jupyter_looks(wheel):
    data = {n.split(".data/data/", 1)[1]: wheel.read(n) for n in wheel.namelist() if ".data/data/" in n}
    built = {f"{LAB}/{p.relative_to(ROOT / 'bsft_nb/labextension').as_posix()}": p.read_bytes() for p in (ROOT / "bsft_nb/labextension").rglob("*") if p.is_file()}
    assert {k: v for k, v in data.items() if k.startswith(LAB)} == built and f"{LAB}/schemas/bsft_nb/plugin.json" in built
    assert json.loads(data[CONFIG]) == {"ServerApp": {"jpserver_extensions": {"bsft_nb": True}}}
    about = json.loads(data[f"{LAB}/package.json"])
    assert f"{LAB}/{about['jupyterlab']['_build']['load']}" in data and json.loads(data[f"{LAB}/install.json"])["uninstallInstructions"]
