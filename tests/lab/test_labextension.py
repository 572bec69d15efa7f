"""The built extension: in step with its sources, whole, small, and where JupyterLab looks for it."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "bsft_nb/labextension"
sys.path.append(str(ROOT / "tests/tools"))
from lab_sources import digest  # noqa: E402


def test_the_built_files_come_from_these_sources():
    assert (BUILT / "sources.sha256").read_text().strip() == digest(), "lab/ has changed since the extension was built: run `make lab`, and commit bsft_nb/labextension"


def test_the_built_extension_is_whole_and_small():
    about = json.loads((BUILT / "package.json").read_text())
    assert (BUILT / about["jupyterlab"]["_build"]["load"]).exists() and json.loads((BUILT / "install.json").read_text())["packageName"] == "bsft_nb"
    scripts = list((BUILT / "static").glob("*.js"))
    assert sum(f.stat().st_size for f in scripts) < 250_000
    for file in scripts:
        assert not re.search(r"https?://(?!www\.w3\.org|react\.dev|reactjs\.org)[\w.-]+", file.read_text(encoding="utf-8")), f"{file.name} names a place on the network"


def test_one_react_and_versions_agree():
    about = json.loads((ROOT / "lab/package.json").read_text())
    version = re.search(r"^version = (\S+)", (ROOT / "settings.ini").read_text(), re.M)[1]
    assert about["version"] == version
    assert not any("react.production" in f.read_text(encoding="utf-8") or "__SECRET_INTERNALS" in f.read_text(encoding="utf-8") for f in (BUILT / "static").glob("*.js"))


def test_the_lock_file_names_no_other_host():
    hosts = set(re.findall(r'"resolved": "https?://([^/"]+)', (ROOT / "lab/package-lock.json").read_text()))
    assert hosts <= {"registry.npmjs.org"}


def test_a_server_finds_the_extension_enabled(tmp_path):
    (tmp_path / "share/labextensions").mkdir(parents=True)
    (tmp_path / "share/labextensions/bsft_nb").symlink_to(BUILT)
    shutil.copytree(ROOT / "etc/jupyter", tmp_path / "config")
    dirs = {f"JUPYTER_{k}_DIR": str(tmp_path / k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **dirs, "JUPYTER_PATH": str(tmp_path / "share"), "PYTHONPATH": str(ROOT)}

    def said(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], env=env, capture_output=True, text=True, timeout=120)
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)

    assert re.search(r"bsft_nb v\S+ enabled OK", said("jupyter", "labextension", "list"))
    server = said("jupyter", "server", "extension", "list")
    assert re.search(r"bsft_nb enabled", server) and re.search(r"bsft_nb \S+ OK", server), server


def test_a_server_needs_no_dspy_to_show_runs():
    code = "import sys, bsft_nb, bsft_nb.lab.server, bsft_nb.lab.pages, bsft_nb.lab.rows, bsft_nb.results.report; print(sorted({'dspy', 'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
