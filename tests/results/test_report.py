"Charts, the report and the snapshot: what they say, what they must not do, how large they get."
import io
import math
import shutil

import dspy
import numpy as np
import pytest
from hostile import HOSTILE, Page, faults
from PIL import Image

from bsft_nb.results.charts import describe_curves, learning_img, learning_png
from bsft_nb.results.escape import safe
from bsft_nb.results.evaluate import Answer
from bsft_nb.results.report import report_html, snapshot_html, write_report
from bsft_nb.results.table import write_table
from bsft_nb.results.table_file import compare_rows
from bsft_nb.run.folder import RunFolder

CURVE = tuple((i, 2 / i**0.5 + 0.1 * math.sin(i)) for i in range(1, 301))


def said(page):
    "The page's text."
    return "".join(Page(page).text)


def run(path, text=lambda i: f"text {i}", n=60, status="finished"):
    "A finished run whose every text is `text(i)`."
    t, folder = text, RunFolder(path)
    asked = {"program": t(0), "target": t(1), "created": t(2), "adapter": {"class": t(3)}, "metric_threshold": 0.5, "models": {"self": "/secret/place"}}
    folder.update(status=status, error=t(4), config={"bsize": 8, "peft": t(5)}, versions={"dspy": "3.4.1", t(6): t(7)}, seconds={"bootstrap": 60.0, "train": 240.0}, **asked)
    emit = folder.log.emit
    emit("run", id=t(8), note=t(9))
    emit("bootstrap", examples=n, teachers=1)
    for i in range(5):
        emit("trace", kept=i > 2, reason="" if i > 2 else t(10), score=1.0, attempt=0, again=False, cost=0.1)
    emit("data", funnel={"tried": {"all": 60}, t(11): {"all": 30, t(12): 30}}, note=t(13))
    for step, loss in CURVE:
        emit("train", model=t(14), step=step, steps=300, loss=loss)
    emit("eval", model=t(14), step=300, steps=300, eval_loss=0.3)
    emit("checkpoint", model=t(14), step=300, epoch=1, path=t(15))
    emit("score", model=t(14), step=300, score=0.7, n=n, which="checkpoint")
    emit("score", which="untuned", score=t(16), n=t(17))
    for i in range(4):
        emit("warn", note=t(18 + i))
    emit("error", type=t(22), message=t(23))
    examples = [dspy.Example(question=str(i), answer="x").with_inputs("question") for i in range(n)]
    scores = {"teacher": np.ones(n), "tuned": np.arange(n) % 3 > 0, "untuned": np.arange(n) % 3 == 2}
    columns = {c: [Answer({"answer": "x"}, score=float(s), latency=1.0, tokens=9, cost=0.01) for s in v] for c, v in scores.items()}
    rows = list(compare_rows(examples, columns, folder.id))
    for i, row in enumerate(rows):
        row |= {"inputs": {t(24): t(i)}, "labels": {"answer": t(i + 1)}}
        for j, answer in enumerate(row["columns"].values()):
            answer |= {"outputs": {"answer": t(i + j), t(25): [t(26)]}, "error": t(27) if i % 5 == 0 else None}
    write_table(folder / "compare.jsonl", rows)
    return folder


def test_the_report_says_what_happened(tmp_path):
    folder = run(tmp_path / "rag-1")
    page = report_html(folder)
    text = said(page)
    for part in ("Run rag-1: finished", "Verdict: behind the teacher", "keeps 67% of the teacher's score", "No number of answers repays the 300 s", "bsize", "dspy 3.4.1", "⚠ text 18", "training loss", "60 rows (regressed 20"):
        assert part in text or part in page, part
    assert "/secret/place" not in page
    assert text.index("Verdict") < text.index("Training") < text.index("Side by side") < text.index("What was asked")
    assert text.count("regressed") >= 20
    assert faults(page) == []


def test_the_snapshot_is_small_and_whole(tmp_path):
    folder = run(tmp_path / "rag-1")
    page = snapshot_html(folder)
    assert faults(page) == [] and len(page) < 60_000
    assert "Run rag-1: finished" in said(page) and "Verdict: behind the teacher" in said(page)
    assert page.count("data:image/png;base64,") == 1
    assert not any(f"<{t}" in page for t in ("style>", "svg", "html", "body", "link", "iframe")) and "class=" not in page


def test_a_failed_run_says_why(tmp_path):
    page = report_html(run(tmp_path / "r", status="failed"))
    assert "Run r: failed" in said(page) and "text 4" in said(page)
    assert "text 4" not in said(snapshot_html(run(tmp_path / "s", status="finished")))


def test_a_run_that_has_only_begun(tmp_path):
    folder = RunFolder(tmp_path / "r")
    assert faults(report_html(folder)) == [] and faults(snapshot_html(folder)) == []
    folder.update(status="running")
    folder.log.emit("run", id="r", note="x")
    write_table(folder / "compare.jsonl", [])
    assert "Run r: running" in said(report_html(folder)) and faults(snapshot_html(folder)) == []


def test_what_differs_is_marked(tmp_path):
    folder = RunFolder(tmp_path / "r")
    example = [dspy.Example(q="?").with_inputs("q")]
    columns = {"teacher": [Answer({"a": "the red fox"}, score=1.0)], "tuned": [Answer({"a": "the blue fox"}, score=0.0)]}
    write_table(folder / "compare.jsonl", compare_rows(example, columns))
    page = report_html(folder)
    assert ">red</del>" in page and ">blue</ins>" in page and ">fox</ins>" not in page


def test_the_file_is_written_whole(tmp_path):
    folder = run(tmp_path / "r")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8") == report_html(folder)
    assert not list(folder.path.glob("*.tmp"))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_one_hostile_text_everywhere(tmp_path, text):
    text = text.encode("utf-8", "replace").decode() if text.isprintable() else text.replace("\ud800", "?").replace("\udfff", "?")
    folder = run(tmp_path / "r", lambda i: text, n=35 if len(text) < 10_000 else 2)
    for page in (report_html(folder), snapshot_html(folder)):
        assert faults(page) == [] and len(page) < 150_000
        shown = said(page)
        if len(text) < 200:
            assert said(safe(text, 200)) in shown  # nothing is hidden either
        assert "Run r: finished" in shown


def test_all_hostile_texts_at_once(tmp_path):
    texts = [t.replace("\ud800", "").replace("\udfff", "")[:3000] for t in HOSTILE]
    folder = run(tmp_path / "r", lambda i: texts[i % 40], n=80)
    assert faults(report_html(folder)) == [] and faults(snapshot_html(folder)) == []
    assert len(report_html(folder)) < 150_000 and len(snapshot_html(folder)) < 60_000


def test_charts_are_small_pictures_on_paper():
    curves = {"loss": CURVE, "eval_loss": CURVE[::50], "score": CURVE[::100]}
    picture = learning_png(curves)
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    light = np.asarray(image)[..., :3].astype(float) @ [0.2126, 0.7152, 0.0722] / 255
    assert len(picture) < 30_000 and image.width == 1152 and (np.asarray(image)[..., 3] == 255).all()
    assert (light > 0.99).mean() > 0.7 and light.min() < 0.4  # white paper in any theme, and dark text on it


@pytest.mark.parametrize("curves", [{}, {"loss": ()}, {"loss": ((1, 2.0),)}, {"loss": ((1, math.nan), (2, math.inf), (3, 1e308))}, {"score": ((1, 0.5), (2, 0.5))}])
def test_charts_of_odd_curves(curves):
    assert learning_png(curves).startswith(b"\x89PNG")
    assert faults(learning_img(curves, '"><script>')) == []


def test_the_chart_is_described():
    assert describe_curves({"loss": ((1, 2.0), (9, 0.5)), "score": ((9, 0.75),)}) == "training loss 2 at step 1, 0.5 at step 9; score of checkpoints 0.75 at step 9"
    assert describe_curves({}) == "no steps yet"
    assert 'alt="training loss 2 at step 1' in learning_img({"loss": ((1, 2.0), (9, 0.5))})


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_runs_loads_or_overflows(tmp_path, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    texts = [t.replace("\ud800", "").replace("\udfff", "") for t in HOSTILE]
    path = write_report(run(tmp_path / "r", lambda i: texts[i % 40], n=80))
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme=scheme)
        asked, dialogs = [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_timeout(300)
        found = page.evaluate("""() => ({
            wide: document.documentElement.scrollWidth - innerWidth,
            scripts: document.querySelectorAll('script,iframe,object,link,style,form,base').length,
            ink: getComputedStyle(document.body).color,
            broken: [...document.images].filter(i => !i.naturalWidth).length})""")
        browser.close()
    assert dialogs == [] and [u for u in asked if not u.startswith(("file:", "data:"))] == []
    assert found["wide"] <= 0 and found["scripts"] == 0 and found["broken"] == 0
    assert found["ink"] == {"light": "rgb(0, 0, 0)", "dark": "rgb(255, 255, 255)"}[scheme]
