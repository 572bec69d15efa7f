"""The extension in a real JupyterLab: the sidebar moves and stops runs without a kernel, pages come back, texts stay texts."""
import shutil
import time
from pathlib import Path

import dspy
import pytest
from hostile import HOSTILE
from labs import compile_elsewhere, theme, under_way

from bsft_nb.lab.places import key_of
from bsft_nb.results.evaluate import Answer
from bsft_nb.results.table import write_table
from bsft_nb.results.table_file import compare_rows
from bsft_nb.run.files import append_line, write_json
from bsft_nb.run.folder import RunFolder

ROOT = Path(__file__).parents[2]


def test_the_sidebar_follows_a_run_and_stops_it_without_a_kernel(sidebar, lab):
    page = sidebar("live")
    process = compile_elsewhere(lab[1], 3000)
    try:
        card = page.page.locator(".bsft-card[data-status=running]").first
        card.wait_for(timeout=90000)
        card.get_by_text("train ").wait_for(timeout=90000)
        document = page.open(card.locator(".bsft-open").inner_text())
        train = document.locator(".bsft-steps li[data-how=now]")
        train.get_by_text("step ").wait_for(timeout=30000)
        first = train.inner_text()
        page.page.wait_for_function("first => document.querySelector('.bsft-steps li[data-how=now]')?.innerText !== first", arg=first, timeout=15000)
        assert document.locator("svg polyline").count() > 0 and page.page.locator(".bsft-statusbar button").inner_text().startswith("Shout train")
        page.shot("lab-live")
        name = card.locator(".bsft-open").inner_text()
        card.get_by_role("button", name="Stop").click()
        page.page.locator(f".bsft-card[data-status=stopped]:has-text('{name}')").wait_for(timeout=60000)
        page.page.get_by_text(f"{name}: stopped").first.wait_for(timeout=10000)
        assert process.wait(60) is not None
        document.locator(".bsft-steps li[data-how=stopped]").wait_for(timeout=10000)
        page.shot("lab-stopped")
        assert page.page.locator(".bsft-card[data-status=running]").count() == 0 and page.said == []
    finally:
        process.kill()
        process.communicate()


def test_a_page_comes_back_after_a_reload_with_no_kernel_in_sight(sidebar, runs):
    run = runs("again-1", scores={"tuned": 0.9, "teacher": 1.0})
    for step in range(1, 6):
        run.log.emit("train", model="say", step=step, steps=5, loss=3.0 / step)
    run.log.emit("done", status="finished", note="finished")
    examples = [dspy.Example(word=f"w{i}", loud=f"W{i}").with_inputs("word") for i in range(60)]
    columns = {"teacher": [Answer({"loud": f"W{i}"}, score=1.0) for i in range(60)], "tuned": [Answer({"loud": f"W{i}" if i % 10 else "no"}, score=float(i % 10 > 0)) for i in range(60)]}
    write_table(run / "compare.jsonl", compare_rows(examples, columns))
    page = sidebar("again")
    document = page.open("again-1")
    document.get_by_text("keeps 90% of the teacher").first.wait_for(timeout=60000)
    assert document.locator(".bsft-score[data-which=tuned] .bsft-figure").inner_text() == "0.9"
    page.page.wait_for_timeout(2000)  # the layout is saved a second after it changed
    page.page.goto(page.url)
    page.loaded()
    page.document().get_by_text("keeps 90% of the teacher").first.wait_for(timeout=60000)
    panel = page.tab("Compare")
    panel.get_by_role("button", name="regressed 6").click()
    panel.get_by_text("1–6 of 6 rows").wait_for(timeout=10000)
    panel.get_by_role("button", name="Open 1", exact=True).click()
    panel.locator(".bsft-detail").get_by_text("W0").first.wait_for(timeout=10000)
    page.shot("lab-compare")
    assert page.said == []


def test_hostile_texts_stay_texts(sidebar, runs):
    run = runs("hostile-1", "failed", error=HOSTILE[0] + HOSTILE[2], target=HOSTILE[1])
    for i, text in enumerate(HOSTILE):
        call = {"predictor": text[:60], "inputs": {text[:30]: text}, "outputs": {"a": text}}
        append_line(run / "traces.jsonl", {"example": f"e{i}", "attempt": 0, "inputs": {"q": text}, "prediction": {text[:30]: text}, "calls": [call], "score": 0.0, "kept": False, "reason": text[:60], "error": text, "key": f"{i:016x}"})
        run.log.emit("warn", note=text[:2000])
        run.log.emit("train", model=text[:60], step=i + 1, steps=40, loss=1.0)
    run.log.emit("error", type="E", message=HOSTILE[3])
    examples = [dspy.Example(word=t, loud=t).with_inputs("word") for t in HOSTILE]
    write_table(run / "compare.jsonl", compare_rows(examples, {c: [Answer({"loud": t + c}, score=float(c == "teacher"), error=t) for t in HOSTILE] for c in ("teacher", "tuned")}))
    page = sidebar("hostile")
    document = page.open("hostile-1")
    document.get_by_text("<script>alert(1)</script>").first.wait_for(timeout=60000)
    panel = page.tab("Data")
    panel.locator("tbody tr").nth(10).wait_for(timeout=60000)
    for i in (1, 3):
        panel.get_by_role("button", name=f"Open {i}", exact=True).click()
    panel.locator(".bsft-detail").first.wait_for(timeout=10000)
    panel = page.tab("Compare")
    panel.get_by_role("button", name="Open 3", exact=True).click()
    panel.locator(".bsft-detail").first.wait_for(timeout=60000)
    page.tab("Settings").locator("tbody tr").first.wait_for(timeout=10000)
    page.shot("lab-hostile")
    assert page.page.locator(".bsft-document script, .bsft-document img, .bsft-document iframe, .bsft-document object, .bsft-document a[href], .bsft-document form, .bsft-card img, .bsft-card script").count() == 0
    assert page.said == [], page.said


def test_a_thousand_runs_are_searched_sorted_and_asked_about(sidebar, runs, lab):
    for i in range(1000):
        runs(f"many-{i:04}", scores={"tuned": i / 1000}, seconds={"train": i}, created=f"2026-01-01 00:{i // 60:02}:{i % 60:02}")
    page = sidebar("many")
    page.page.get_by_label("Search runs").fill("many")
    page.card("many-0999").wait_for(timeout=30000)
    page.page.locator(".bsft-count").get_by_text("1,000", exact=True).wait_for(timeout=30000)
    cards = page.page.locator(".bsft-card")
    assert cards.count() == 100, "those that are seen are drawn"
    page.page.get_by_role("button", name="Show 100 more").click()
    page.page.wait_for_function("document.querySelectorAll('.bsft-card').length === 200", timeout=5000)
    page.page.get_by_label("Order").select_option("score")
    assert page.page.locator(".bsft-card .bsft-open").first.text_content() == "many-0999"
    page.shot("lab-thousand")
    page.page.get_by_label("Search runs").fill("many-0007")
    page.page.wait_for_function("document.querySelectorAll('.bsft-card').length === 1", timeout=5000)
    page.page.locator(".bsft-card").first.click(button="right")
    page.page.get_by_text("Delete…").click()
    page.page.get_by_role("button", name="Cancel").click()
    assert (lab[1] / "home/runs/many-0007").exists() and page.said == []


def test_run_json_opens_as_a_page_that_is_kept_up_to_date(sidebar, lab):
    run = RunFolder(lab[1] / "shown-1")
    write_json(run / "run.json", {"status": "finished", "program": "Shout", "target": "base"})
    run.log.emit("run", id="shown-1")
    page = sidebar("files")
    page.page.evaluate("window.jupyterapp.commands.execute('docmanager:open', {path: 'shown-1/run.json'}).then(() => null)")
    page.document().get_by_role("heading", name="shown-1").wait_for(timeout=30000)
    began = time.time()
    run.log.emit("warn", note="told while the page is open")
    page.document().get_by_text("told while the page is open").first.wait_for(timeout=10000)
    assert time.time() - began < 8 and page.said == []


@pytest.mark.parametrize("colours", ["Light", "Dark"])
def test_every_view_can_be_read_and_worked_by_everybody(colours, sidebar, runs, whole):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    found = {}

    def look(view: str, where: str):
        for fault in axe.run(page.page, where, {"resultTypes": ["violations"]}).response["violations"]:
            found.setdefault(fault["id"], []).extend(f"{view}: {n['target']} {n['failureSummary']}" for n in fault["nodes"])

    live, failed = runs("axe-live"), runs("axe-failed", "failed", error="ValueError: no room")
    with under_way(live):
        page = sidebar(f"axe-{colours}")
        theme(page, colours)
        page.page.locator(".bsft-card[data-status=running]").wait_for(timeout=30000)
        look("sidebar", ".bsft-sidebar")
        page.open("axe-live")
        look("a run under way", ".bsft-document:not(.lm-mod-hidden)")
        look("status bar", ".bsft-statusbar")
        page.open("axe-failed")
        look("a failed run", ".bsft-document:not(.lm-mod-hidden)")
        page.open("whole-1").locator(".bsft-verdict li").first.wait_for(timeout=30000)
        look("overview", ".bsft-document:not(.lm-mod-hidden)")
        for tab in ("Data", "Compare", "Log", "Settings"):
            panel = page.tab(tab)
            panel.locator("tbody tr, .bsft-log").first.wait_for(timeout=60000)
            if tab in ("Data", "Compare"):
                panel.get_by_role("button", name="Open 6", exact=True).click()
                panel.locator(".bsft-detail").wait_for(timeout=10000)
            if tab == "Compare":
                panel.get_by_label("Slices by").select_option("labels.loud")
                panel.locator(".bsft-slices tbody tr").first.wait_for(timeout=10000)
            look(tab, ".bsft-document:not(.lm-mod-hidden)")
            page.shot(f"lab-axe-{colours}-{tab}")
            if tab == "Data":
                panel.get_by_role("button", name="Rows of the student").click()
                panel.get_by_role("button", name="Open 2", exact=True).click()
                panel.locator(".bsft-detail").get_by_role("button", name="Tokens").click()
                look("rows", ".bsft-document:not(.lm-mod-hidden)")
                page.shot(f"lab-axe-{colours}-rows")
        page.command("bsft:compare-runs", keys=[key_of(r.path.resolve()) for r in (whole, failed)])
        page.document().get_by_role("heading", name="2 runs").wait_for(timeout=30000)
        look("compare runs", ".bsft-document:not(.lm-mod-hidden)")
        page.shot(f"lab-axe-{colours}-several")
    assert not found, "\n".join(f"{fault}:\n  " + "\n  ".join(where[:6]) for fault, where in found.items())
    assert page.said == []


def test_runs_are_found_in_every_place_that_jupyterlab_has(sidebar, runs, lab):
    first, second = runs("place-1", config={"lr": 1}), runs("place-2", config={"lr": 2})
    deep = RunFolder(lab[1] / "a/b/c/d/e/.bsft/runs/deep-1")
    write_json(deep / "run.json", {"status": "finished"})
    with under_way(first):
        page = sidebar("places")
        status = page.page.locator(".bsft-statusbar button")
        status.wait_for(timeout=30000)
        assert "train 38%" in status.inner_text()
        page.page.locator(".jp-LauncherCard", has_text="New fine-tuning").wait_for(timeout=10000)
        page.command("running:show-panel") if page.has("running:show-panel") else page.page.locator(".lm-TabBar-tab[data-id=jp-running-sessions]").click()
        entry = page.page.locator("#jp-running-sessions", has_text="place-1")
        entry.get_by_text("train 38%").wait_for(timeout=10000)
        page.shot("lab-running")
        entry.get_by_text("place-1").first.click()
        page.document().get_by_role("heading", name="place-1").wait_for(timeout=10000)
        page.command("apputils:activate-command-palette")
        for label in ("New Fine-Tuning", "Open Fine-Tuning Run…", "Stop Fine-Tuning Run…", "Show Fine-Tuning Runs"):
            page.page.locator(".lm-CommandPalette-input").fill(label)
            page.page.locator(".lm-CommandPalette-itemLabel", has_text=label).first.wait_for(timeout=5000)
        page.page.keyboard.press("Escape")
        page.page.get_by_role("menuitem", name="Run", exact=True).click()
        page.page.locator(".lm-Menu-itemLabel", has_text="Stop Fine-Tuning Run…").wait_for(timeout=5000)
        page.page.keyboard.press("Escape")
        page.command("bsft:show-sidebar")
        assert page.page.locator(".bsft-card", has_text="deep-1").count() == 0
        page.set(folders=["a/b/c/d/e"], statusBar=False, sort="name")
        page.card("deep-1").wait_for(timeout=15000)
        status.wait_for(state="hidden", timeout=5000)
        assert page.page.get_by_label("Order").input_value() == "name"
        page.set(statusBar=True)
        status.click()
        page.document().get_by_role("heading", name="place-1").wait_for(timeout=10000)
        for name in ("place-1", "place-2"):
            page.card(name).get_by_role("checkbox").check()
        page.page.get_by_role("button", name="Compare 2 runs").click()
        page.document().locator(".bsft-settings tr", has_text="config.lr").wait_for(timeout=10000)
        first.update(status="finished", scores={"tuned": 0.5})  # as a compile does, before it lets go
    told = page.page.locator(".jp-Notification-Toast, .Toastify__toast", has_text="place-1: finished, tuned 0.5")
    told.wait_for(timeout=15000)
    told.get_by_role("button", name="Open").click()
    page.document().get_by_role("heading", name="place-1").wait_for(timeout=10000)
    page.set(notifications="none")
    with under_way(second):
        page.page.locator(".bsft-card[data-status=running]", has_text="place-2").wait_for(timeout=15000)
        second.update(status="finished")
    page.page.locator(".bsft-card[data-status=finished]", has_text="place-2").wait_for(timeout=15000)
    assert page.page.get_by_text("place-2: finished").count() == 0 and page.said == []
    shutil.rmtree(deep.path)
