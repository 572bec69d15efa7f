"""Builds the JupyterLab extension anew in a folder of its own, checks its TypeScript, and compares the files with the committed ones.

Where Node or npm's registry cannot be reached, it says so, and fails nothing: the digest of the sources is compared by a test in any case.
"""
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "bsft_nb/labextension"
NODE = 20  # least major version
AWAY = re.compile(r"ENOTFOUND|ECONN|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET|network|E40[13]|E5\d\d", re.I)  # what npm says where its registry is not reachable


def node_major() -> int:
    "Major version of Node; 0 where there is none, or no npm."
    if not (shutil.which("node") and shutil.which("npm")):
        return 0
    found = re.match(r"v(\d+)", subprocess.run(["node", "--version"], capture_output=True, text=True).stdout)
    return int(found[1]) if found else 0


def fetch(lab: Path, seconds: float) -> str:
    "Install the locked packages in `lab`. Returns why they cannot be reached; empty where all is there. Any other failure ends the program."
    try:
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"], cwd=lab, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"npm's packages were not there after {seconds:.0f} s"
    said = (done.stderr or done.stdout).strip()
    if done.returncode and not AWAY.search(said):
        sys.exit(f"npm ci failed:\n{said[-2000:]}")
    return f"npm's registry is not reachable ({said.splitlines()[0][:120]})" if done.returncode else ""


def differences(one: Path, other: Path) -> list[str]:
    "Names of files that are in one of two folders only, or not the same in both."
    names = {p.relative_to(f).as_posix() for f in (one, other) for p in f.rglob("*") if p.is_file()}
    return sorted(n for n in names if not ((one / n).is_file() and (other / n).is_file() and filecmp.cmp(one / n, other / n, shallow=False)))


def build(lab: Path) -> Path:
    "Check and build the extension in `lab`, whose packages are there. Returns the folder of the built files."
    builder = shutil.which("jupyter-builder", path=str(Path(sys.executable).parent)) or "jupyter-builder"
    for command in (["npm", "run", "lint"], ["npm", "test"], [builder, "build", "."]):
        done = subprocess.run(command, cwd=lab, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    made = lab.parent / "bsft_nb/labextension"
    shutil.copy(lab / "install.json", made)
    shutil.copy(BUILT / "sources.sha256", made)  # a test compares it
    return made


def main(seconds: float = 75.0):
    began, major = time.monotonic(), node_major()
    if major < NODE:
        return print(f"JupyterLab extension: NOT rebuilt and compared, Node {NODE} or later with npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        lab = Path(folder) / "lab"
        shutil.copytree(ROOT / "lab", lab, ignore=shutil.ignore_patterns("node_modules", "lib", "*.tsbuildinfo"))
        if why := fetch(lab, seconds):
            return print(f"JupyterLab extension: NOT rebuilt and compared, {why}")
        if found := differences(build(lab), BUILT):
            sys.exit(f"JupyterLab extension: the committed files are not those that lab/ gives: {', '.join(found)}. Run `make lab` and commit bsft_nb/labextension")
    print(f"JupyterLab extension: rebuilt, checked, and the same as committed, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
