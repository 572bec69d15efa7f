"""The README's picture: a finished run as a notebook shows it, above three of its rows side by side.

    python tests/tools/pictures.py RUN        # a run folder, as `make demo` leaves it under .bsft/runs
"""
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from bsft_nb.notebook.compare_panel import ComparePanel
from bsft_nb.results.report import snapshot_html
from bsft_nb.run.folder import RunFolder

PICTURE = Path(__file__).parents[2] / "nbs" / "images" / "run.png"


def page_of(folder: RunFolder) -> str:
    "The run's snapshot and three rows that the tuned student mends, as one page."
    panel = ComparePanel.of(folder_run(folder), size=3)
    panel.select(filter="fixed")
    body = snapshot_html(folder) + panel.html()
    return f'<!doctype html><meta charset="utf-8"><body style="font:14px/1.5 system-ui,sans-serif;width:900px;margin:16px">{body}</body>'


def folder_run(folder: RunFolder):
    from bsft_nb import attach

    return attach(folder.path)


def main(path: str):
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 932, "height": 600}, device_scale_factor=1.25)
        page.set_content(page_of(RunFolder(path)))
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=PICTURE, full_page=True)
        browser.close()
    print(PICTURE, f"{PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
