"""The extension in Notebook 7: what its shell has a place for is there, and what it lacks breaks nothing."""
import json
import time

import pytest
from labs import Lab, under_way

pytest.importorskip("notebook.app", reason="Notebook 7 is not installed")


class Seven(Lab):
    "A page of Notebook, with the sidebar opened from its menu."

    def __init__(self, page, url: str, where: str):
        self.page, self.said = page, []
        page.on("dialog", lambda d: (self.said.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("pageerror", lambda e: self.said.append(f"error: {e.stack}") if "bsft_nb" in (e.stack or "") else None)  # Notebook has some of its own
        page.goto(f"{url}{where}")
        page.get_by_role("menuitem", name="View", exact=True).wait_for(timeout=60_000)

    def sidebar(self):
        self.page.get_by_role("menuitem", name="View", exact=True).click()
        self.page.locator(".lm-Menu-itemLabel", has_text="Left Sidebar").hover()
        self.page.locator(".lm-Menu-itemLabel", has_text="Show Fine-tuning").click(timeout=10_000)
        self.page.locator(".bsft-sidebar:visible").wait_for(timeout=10_000)

    def in_menu(self, menu: str, label: str):
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=label).wait_for(timeout=10_000)
        self.page.keyboard.press("Escape")


@pytest.mark.slow
def test_notebook_7_shows_runs_wherever_it_has_a_place(lab, chromium, runs):
    live = runs("seven-live")
    for i in (1, 2):
        runs(f"seven-{i}", scores={"tuned": i / 10}, config={"lr": i})
    (lab[1] / "seven").mkdir()
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    try:
        with under_way(live):
            page = Seven(context.new_page(), lab[0], "tree/seven")
            page.sidebar()
            for name in ("seven-1", "seven-2", "seven-1"):
                page.open(name)
                page.page.locator(".bsft-document:visible h1", has_text=name).wait_for(timeout=10_000)
                assert page.document().bounding_box()["height"] > 300, "the lower panel has room for it"
            page.shot("notebook-7")
            for name in ("seven-1", "seven-2"):
                page.card(name).get_by_role("checkbox").check()
            page.page.get_by_role("button", name="Compare 2 runs").click()
            page.document().locator(".bsft-settings tr", has_text="config.lr").wait_for(timeout=10_000)
            page.page.get_by_role("tab", name="Running").click()
            page.page.locator(".jp-RunningSessions", has_text="seven-live").wait_for(timeout=10_000)
            page.card("seven-live").get_by_role("button", name="Stop").click()
            page.page.get_by_text("Asked seven-live to stop").first.wait_for(timeout=10_000)
            assert live.stop_signal.control.exists()
        with context.expect_page(timeout=30_000):
            page.page.locator(".bsft-sidebar").get_by_role("button", name="New", exact=True).click()
        made = lab[1] / "seven/Untitled.ipynb"
        end = time.time() + 10
        while not made.exists() and time.time() < end:
            page.page.wait_for_timeout(100)
        assert "%bsft panel" in "".join(json.loads(made.read_text())["cells"][0]["source"])
        beside = Seven(context.new_page(), lab[0], "notebooks/seven/Untitled.ipynb")
        beside.page.locator(".jp-Cell", has_text="%bsft panel").wait_for(timeout=30_000)
        beside.in_menu("Run", "Stop Fine-Tuning Run…")
        beside.sidebar()
        beside.open("seven-2")
        beside.shot("notebook-7-beside")
        alone = Seven(context.new_page(), lab[0], "edit/home/runs/seven-1/run.json")
        alone.page.locator(".bsft-document h1", has_text="seven-1").wait_for(timeout=30_000)
        assert page.said == beside.said == alone.said == []
    finally:
        context.close()
