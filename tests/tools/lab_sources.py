"""Digest of everything that the JupyterLab extension is built from; `make lab` keeps it beside the built files."""
import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "bsft_nb/labextension"
PARTS = ("src/**/*", "style/*", "schema/*", "package.json", "package-lock.json", "tsconfig.json", "rspack.config.js", "install.json")


def digest() -> str:
    "Hexadecimal digits that change with any source of the extension."
    found = hashlib.sha256()
    for file in sorted({p for part in PARTS for p in (ROOT / "lab").glob(part) if p.is_file()}):
        found.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    (BUILT / "sources.sha256").write_text(digest() + "\n")
