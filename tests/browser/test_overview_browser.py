"""The pictures of a run as a browser draws them: readable in both themes, nothing cut off at 480 pixels, named for a screen reader."""
import pytest
from conftest import SHOTS

from bsft_nb.notebook.progress_html import kept_html, panel_html, said_html
from bsft_nb.notebook.progress_panel import gone_html
from bsft_nb.results.report import report_html, snapshot_html
from bsft_nb.run.events import Event
from bsft_nb.run.files import append_line
from bsft_nb.run.folder import RunFolder
from bsft_nb.run.progress import reduce_all

THEMES = {  # as JupyterLab's: paper, ink, and the second ink
    "light": ("#ffffff", "rgba(0, 0, 0, .87)"),
    "dark": ("#111111", "rgba(255, 255, 255, .87)"),
}
MODELS = [f"model-{c}" for c in "abcdef"]


def events(models=MODELS, until=99):
    "A run of several models, as far as its stage `until`."
    log = [Event("run", 1, {"id": "tickets-0a1b2c3d", "key": "k"}), Event("bootstrap", 2, {"examples": 40, "teachers": 1, "rounds": 3})]
    log += [Event("trace", 3 + i, {"kept": i % 3 > 0, "reason": "" if i % 3 else "rejected", "attempt": 0, "again": False, "cost": 0.01, "latency": 0.8, "tokens": 300}) for i in range(30)]
    log += [Event("stage", 34, {"stage": "bootstrap", "calls": 123, "cost": 0.35})]
    if until > 0:
        log += [Event("data", 50, {"funnel": {"tried": {"all": 30}, "kept": {"all": 20}, "calls": {"all": 120, **dict.fromkeys(["route", "prioritise"], 60)}, "trained": {"all": 108}, "held out": {"all": 12}}, "note": "108 pairs"})]
        log += [Event("stage", 51 + i, {"stage": "scoring", "which": "untuned", "done": 4 * i, "of": 12}) for i in range(3)]
        log += [Event("score", 55, {"which": "untuned", "score": 0.25, "n": 12}), Event("score", 56, {"which": "teacher", "score": 0.8333, "n": 12}), Event("stage", 57, {"stage": "starting trainer"})]
    for j, m in enumerate(models if until > 1 else []):
        t = 60 + 30 * j
        log += [Event("stage", t, {"stage": "loading model", "model": m}), Event("warn", t, {"note": f"{m}: prompts are run whole, their shared beginning with each: the model has an attention of its own"})]
        log += [Event("train", t + s, {"model": m, "step": s, "steps": 20, "loss": 2.5 / s**0.5 + j / 9, "eta_s": 20.0 - s, "examples_per_s": 3.2, "memory_mb": 1234}) for s in range(1, 21)]
        log += [Event("eval", t + 21, {"model": m, "step": 20, "steps": 20, "eval_loss": 0.9}), Event("stage", t + 22, {"stage": "scoring", "which": "checkpoint", "model": m, "step": 20, "epoch": 1, "done": 5, "of": 12})]
        if until > 2:
            log += [Event("score", t + 23, {"which": "checkpoint", "model": m, "step": 20, "epoch": 1, "score": 0.5 + j / 20})]
    if until > 2:
        log += [Event("score", 300, {"which": "tuned", "score": 0.75, "n": 12}), Event("done", 301, {"status": "finished", "note": "finished in 300 s"})]
    return log


def finished(path):
    folder = RunFolder(path)
    folder.update(status="finished", program="Triage", target="smollm2-135m", created="2026-01-31 10:00:00", config={"bsize": 8, "epochs": 1}, seconds={"train": 300.0})
    for e in events():
        append_line(folder.log.path, {"kind": e.kind, "t": e.t, "data": e.data})
    return folder


def shown(name, tmp_path):
    if name == "final":
        return snapshot_html(finished(tmp_path / "tickets-0a1b2c3d"))
    state = reduce_all(events(until={"teacher": 0, "start": 1, "scoring": 2}[name]))
    return panel_html(state, state.last + 2) + said_html(state)


@pytest.mark.parametrize("name", ["teacher", "start", "scoring", "final"])
@pytest.mark.parametrize("theme", THEMES)
def test_a_picture_can_be_read_by_everybody(chromium, tmp_path, name, theme):
    from axe_playwright_python.sync_playwright import Axe

    paper, ink = THEMES[theme]
    page = chromium.new_page(viewport={"width": 480, "height": 900}, color_scheme=theme)
    page.set_content(f'<!doctype html><html lang="en"><head><title>{name}</title></head><body style="margin:8px;background:{paper};color:{ink};--jp-ui-font-color1:{ink}"><main><h1>Notebook</h1><h2>Cell</h2>{shown(name, tmp_path)}</main></body></html>')
    for fold in page.locator("summary").all():
        fold.click()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"overview-{name}-{theme}.png", full_page=True)
    wide = page.evaluate("[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 480 && !e.closest('[role=status]')).length")
    found = [(v["id"], n["html"][:200]) for v in Axe().run(page).response["violations"] for n in v["nodes"]]
    page.close()
    assert wide == 0 and found == []


def test_a_panel_that_hears_nothing_says_so(chromium):
    state = reduce_all(events(until=2))
    page = chromium.new_page()
    page.set_content(f'<body><div id="x">{gone_html(state.run, 1.0).replace("30s", "1s")}</div>{kept_html(state, state.last, "12:00:00")}</body>')
    notice = page.locator("#x > div")
    assert not notice.is_visible() and page.get_by_text("This is how the run stood at 12:00:00").is_visible()
    page.wait_for_timeout(1500)
    assert notice.is_visible() and "%bsft attach tickets-0a1b2c3d" in notice.inner_text()
    page.close()


def test_the_report_of_six_models_is_one_chart_and_one_warning(tmp_path):
    page = report_html(finished(tmp_path / "r"))
    assert page.count("<img") == 6 and page.count("held-out loss</span>") == 1 and page.count("⚠") == 1 and "model-a, model-b and 4 more" in page
