"""README.md from nbs/index.ipynb. Links in the notebook are relative to `nbs/`; those in README.md to the root."""
import re
import subprocess
import sys
from pathlib import Path


def main(root: Path):
    command = [Path(sys.executable).parent / "jupyter", "nbconvert", "--to", "markdown", "--TagRemovePreprocessor.enabled=True", "--output-dir", ".", "--output", "README", "nbs/index.ipynb"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    page = root / "README.md"
    text = re.sub(r"\]\((?!https?:|#|/)", "](nbs/", page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
