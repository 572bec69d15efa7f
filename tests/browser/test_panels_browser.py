"""Data, compare and compile panels in a real JupyterLab, with texts that would run if they could."""
import subprocess
import sys

from test_progress_browser import SETUP

TABLE = """import dspy, pathlib
from hostile import HOSTILE
from bsft_nb.results.evaluate import Answer
from bsft_nb.results.table import write_table
from bsft_nb.results.table_file import compare_rows
from bsft_nb.notebook.compare_panel import ComparePanel
from bsft_nb.data.pairs import Pair
from bsft_nb.notebook.data_panel import DataPanel
%load_ext bsft_nb
teams = ["billing", "shipping", "returns"]
texts = [f"My parcel {i} has not come, and I was charged twice for it." for i in range(80)] + [t.encode("utf-8", "replace").decode() for t in HOSTILE]
examples = [dspy.Example(message=t, team=teams[i % 3]).with_inputs("message") for i, t in enumerate(texts)]
def answers(shift, latency, tokens):
    return [Answer({"team": teams[(i + (i % 7 == 0) * shift) % 3], "why": texts[i]}, score=float(i % 7 > 0 or not shift), latency=latency, tokens=tokens, cost=0.0002 * (not shift)) for i in range(len(texts))]
columns = {"teacher": answers(0, 0.9, 310), "tuned": answers(1, 0.08, 90), "untuned": answers(2, 0.08, 95)}
rows = write_table(pathlib.Path("table.jsonl"), compare_rows(examples, columns, "tickets-1"))
def attempt(t, i):
    return dict(inputs={"message": t}, prediction={"team": t if i > 79 else teams[i % 3]}, calls=[dict(predictor="self", inputs={"message": t}, outputs={"team": teams[i % 3]})], score=i % 5 / 4, kept=i % 5 > 1, reason="" if i % 5 > 1 else "rejected")
traces = [attempt(t, i) for i, t in enumerate(texts)]
pairs = [Pair(f"example{i}", "self", t[:5000], teams[i % 3], 1.0, [1] * 30, [2, 3]) for i, t in enumerate(texts)]"""


def scripts_ran(nb) -> bool:
    "Did any of the hostile texts do something?"
    return bool(nb.alerts) or nb.page.evaluate("document.querySelectorAll('.jp-OutputArea iframe, .jp-OutputArea script, .jp-OutputArea [onerror], .jp-OutputArea form').length") > 0


def test_compare_panel_filters_pages_and_stays_harmless(notebook):
    nb = notebook("compare", [TABLE, "panel = ComparePanel(rows, again=lambda examples: f'started with {len(examples)}')\npanel"])
    nb.run(0)
    nb.run(1)
    nb.see(1, "rows 1–25 of 120")
    nb.shot("compare", 1)
    nb.output(1).get_by_role("button", name="Next").click()
    nb.see(1, "rows 26–50 of 120")
    assert "120 rows right" in nb.output(1).inner_text() and "label" in nb.output(1).inner_text()
    nb.output(1).get_by_label("Show").first.select_option("regressed (18)")
    nb.see(1, "rows 1–18 of 18")
    nb.theme("Dark")
    nb.shot("compare-regressed-dark", 1)
    nb.output(1).get_by_role("button", name="Send these").click()
    nb.see(1, "started with 18")
    nb.output(1).get_by_label("Show").first.select_option("all (120)")
    nb.output(1).get_by_label("Slices by").select_option("labels.team")
    nb.see(1, "win rate of those decided")
    nb.shot("compare-slices-dark", 1)
    nb.theme("Light")
    for _ in range(4):
        nb.output(1).get_by_role("button", name="Next").click()
        nb.page.wait_for_timeout(300)
    nb.see(1, "rows 101–120 of 120")
    nb.shot("compare-hostile", 1)
    nb.output(1).get_by_label("In full").select_option(index=3)
    nb.see(1, "row 104 ")
    nb.shot("compare-one-row", 1)
    assert not scripts_ran(nb) and nb.page.locator(".jp-Notebook").bounding_box()["width"] <= 1100


def test_data_panel_answers_slider_and_edits(notebook):
    nb = notebook("data", [TABLE, "panel = DataPanel(traces, pairs, {'tried': {'all': 120}, 'kept': {'all': 72}, 'trained': {'all': 64, 'self': 64}})\npanel", "len(panel.pairs)"])
    nb.run(0)
    nb.run(1)
    nb.see(1, "A threshold of 0 would leave 120 of 120")
    nb.output(1).get_by_role("slider").focus()
    for _ in range(5):
        nb.page.keyboard.press("PageUp")
    nb.page.wait_for_timeout(800)
    assert "of 0 would" not in nb.output(1).inner_text() and "would leave" in nb.output(1).inner_text()
    nb.shot("data-funnel", 1)
    nb.output(1).get_by_role("tab", name="Attempts").click()
    nb.output(1).get_by_label("Show", exact=True).select_option("rejected")
    nb.see(1, "rows 1–20 of 48")
    nb.shot("data-attempts", 1)
    nb.output(1).get_by_role("tab", name="Rows").click()
    nb.output(1).get_by_label("Rows", exact=True).select_option(index=2)
    nb.see(1, "example example2")
    nb.output(1).get_by_role("button", name="Drop this row").click()
    nb.see(1, "119 of 120 rows are left")
    nb.output(1).get_by_role("button", name="Next row").click()
    nb.see(1, "example example3")
    nb.theme("Dark")
    nb.shot("data-rows-dark", 1)
    nb.theme("Light")
    nb.run(2)
    assert nb.text(2).strip().endswith("119") and not scripts_ran(nb)


def test_compile_panel_starts_what_it_shows(notebook):
    nb = notebook("compile", [f"{SETUP}\n%load_ext bsft_nb\nstudent = dspy.Predict('words -> kind')\nlm = teacher_lm(lambda text: {{'kind': 'odd'}})", "panel = %bsft panel\npanel", "panel.run.result(60)._compiled", "compiled._compiled", "%bsft report"])
    nb.run(0)
    nb.run(1)
    nb.output(1).get_by_label("target").fill("tiny-llama")
    nb.page.keyboard.press("Tab")
    nb.output(1).get_by_label("lm").select_option("lm")
    nb.see(1, "teacher_settings=dict(lm=lm)")
    nb.see(1, "found here")
    nb.see(1, "at most")  # the preflight
    nb.shot("compile-panel", 1)
    nb.output(1).get_by_role("button", name="Start").click()
    nb.see(1, "The run is named")
    nb.run(2)
    nb.see(1, ": finished")
    nb.see(1, "The compiled program is named")
    nb.shot("compile-panel-finished", 1)
    nb.run(3)
    assert "True" in nb.text(2) and "True" in nb.text(3)
    nb.run(4)
    nb.see(4, "Open the report in a new tab")
    nb.shot("report-magic", 4)


def test_the_saved_panel_reads_as_a_page(notebook, tmp_path):
    nb = notebook("kept", [TABLE, "ComparePanel(rows)"])
    nb.run(0)
    nb.run(1)
    nb.see(1, "rows 1–25 of 120")
    assert nb.output(1).get_by_text("win rate").count() == 0 and nb.output(1).locator("table:visible").count() == 1, "the widget hides the page that is kept"
    saved = nb.saved()
    assert "tickets-1" in saved.cells[1].outputs[0]["data"]["text/html"] and "widgets" not in saved.metadata
    nb.leave()
    again = notebook("kept", fresh=False, kernel=False)
    assert not scripts_ran(again) and "tickets-1" in again.output(1).inner_text()
    again.shot("kept-reopened", 1)
    page = tmp_path / "kept.html"
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", str(again.path), "--output", str(page)], check=True, capture_output=True)
    again.page.goto(page.as_uri())
    again.shot("kept-nbconvert")
    assert "tickets-1" in again.page.inner_text("body") and "model not found" not in again.page.inner_text("body")


def test_magics_complete_in_the_lab_and_a_stop_is_no_error(notebook):
    nb = notebook("magics", ["%load_ext bsft_nb\ntrain = []", "%bsft sta", "from bsft_nb.optimizer.short_errors import told_shortly\nfrom bsft_nb.run.events import Stopped\nwith told_shortly():\n    raise Stopped", "%bsft"])
    nb.run(0)
    nb.cell(1).locator(".cm-content").click()
    nb.page.keyboard.press("End")
    nb.page.keyboard.press("Tab")
    nb.page.locator(".jp-Completer-item", has_text="status").wait_for(timeout=20000)
    nb.page.keyboard.press("Enter")
    assert nb.cell(1).locator(".cm-content").inner_text() == "%bsft status"
    nb.begin(2)
    nb.see(2, "it goes on from there")
    assert nb.output(2).locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    nb.run(3)
    nb.see(3, "Compile by clicking")
    nb.shot("magics", 3)
