"""The sidebar as people work with it: beside a kernel that is busy or gone, in two browsers, by keyboard, enlarged, with a large table."""
import os
import signal
import sys

import pytest
from labs import ROOT, compile_elsewhere, under_way
from test_progress_browser import ARGS, SETUP

from bsft_nb.results.table import write_table
from bsft_nb.run.folder import RunFolder

# what the cell does, and who trains: the kernel itself, or a process that outlives it
FATES = {"blocks": ("compiled = optimizer().compile", "inline"), "restarts": ("run = optimizer().start", "process"), "was killed": ("compiled = optimizer().compile", "process")}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", FATES)
def test_stop_in_the_sidebar_ends_a_run_whose_kernel(kernel, notebook, lab):
    (begins, launch), name = FATES[kernel], kernel.replace(" ", "-")
    nb = notebook(f"kernel-{name}", [f"import os\nprint('pid', os.getpid())\n{SETUP}", f"{begins}({ARGS}, epochs={3010 + list(FATES).index(kernel)}, launch='{launch}')"])
    nb.run(0)
    pid = int(nb.text(0).split("pid")[1].split()[0])
    nb.command("bsft:show-sidebar")
    nb.begin(1)
    card = nb.page.locator(".bsft-card[data-status=running]").first
    card.get_by_text("train ").wait_for(timeout=240_000)
    run = RunFolder(lab[1] / "home/runs" / card.locator(".bsft-open").text_content())
    try:
        if kernel == "restarts":
            nb.restart()
        elif kernel == "was killed":
            os.kill(pid, signal.SIGKILL)
            nb.page.locator(".jp-Dialog", has_text="Kernel Restarting").get_by_role("button", name="Ok").click(timeout=60_000)
        step = run.log.read()[-1].data.get("step", 0)
        nb.until(lambda: run.log.read()[-1].data.get("step", 0) > step, 60, "the training goes on")
        nb.shot(f"lab-kernel-{name}")
        card.get_by_role("button", name="Stop").click()
        nb.page.locator(f".bsft-card[data-status=stopped]:has-text('{run.id}')").wait_for(timeout=60_000)
        if kernel == "blocks":
            nb.ended(1, 30)
            nb.see(1, ": stopped")
        nb.shot(f"lab-kernel-{name}-stopped")
        assert nb.page.locator(".bsft-card[data-status=running]").count() == 0 and nb.alerts == []
    finally:
        run.stop_signal.request()  # the training would go on without anybody


@pytest.mark.slow
def test_two_browsers_show_one_run_and_both_see_who_stops_it(sidebar, lab):
    pages = [sidebar("one"), sidebar("two")]
    process = compile_elsewhere(lab[1], 3001)
    try:
        cards = [page.page.locator(".bsft-card[data-status=running]").first for page in pages]
        for card in cards:
            card.get_by_text("train ").wait_for(timeout=240_000)
        names = {card.locator(".bsft-open").inner_text() for card in cards}
        assert len(names) == 1
        run = names.pop()
        document = pages[0].open(run)
        document.locator(".bsft-steps li[data-how=now]").get_by_text("step ").wait_for(timeout=30_000)
        cards[1].get_by_role("button", name="Stop").click()
        for page in pages:
            page.page.locator(f".bsft-card[data-status=stopped]:has-text('{run}')").wait_for(timeout=60_000)
            assert page.page.get_by_role("button", name="Stop", exact=True).count() == 0 and page.said == []
        document.locator(".bsft-steps li[data-how=stopped]").wait_for(timeout=10_000)
        assert process.wait(60) is not None
    finally:
        process.kill()
        process.communicate()



def test_a_run_is_found_opened_read_and_stopped_by_keyboard_alone(sidebar, runs):
    run = runs("keys-1")
    runs("keys-2")
    with under_way(run):
        page = sidebar("keys")
        page.card("keys-1").get_by_text("train ").wait_for(timeout=30_000)
        page.command("application:toggle-left-area")  # and Lab goes on in its main area
        keys = page.page.keyboard

        def focused(selector: str):
            try:
                page.page.wait_for_function("s => !!document.activeElement?.closest(s)", arg=selector, timeout=10_000)
            except Exception:
                page.shot("lab-keys-lost")
                raise

        def tab_to(selector: str, most: int = 30, back: bool = False):
            for _ in range(most):
                if page.page.evaluate("s => !!document.activeElement?.matches(s)", selector):
                    return
                keys.press("Shift+Tab" if back else "Tab")
            page.shot("lab-keys-lost")
            raise AssertionError(f"{most} times Tab do not lead to {selector}")

        focused(".jp-Launcher")
        keys.press("Control+Shift+c")
        page.page.locator(".lm-CommandPalette-input").wait_for(timeout=10_000)
        keys.type("Show Fine-Tuning Runs")
        page.page.locator(".lm-CommandPalette-item.lm-mod-active", has_text="Show Fine-Tuning Runs").wait_for(timeout=10_000)
        keys.press("Enter")
        page.page.locator(".lm-CommandPalette-input").wait_for(state="hidden", timeout=10_000)
        focused(".bsft-sidebar .bsft-search")
        page.page.wait_for_timeout(500)
        focused(".bsft-sidebar .bsft-search")  # and stays there
        keys.type("keys-1")
        page.page.wait_for_function("document.querySelectorAll('.bsft-card').length === 1", timeout=5000)
        tab_to(".bsft-card .bsft-open")
        page.shot("lab-keys-sidebar")
        keys.press("Enter")
        page.document().get_by_role("heading", name="keys-1").wait_for(timeout=30_000)
        focused(".bsft-document")
        tab_to(".bsft-tabs [data-tab=overview]")
        keys.press("ArrowRight")
        assert page.page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
        page.document().get_by_text("There are no attempts yet").wait_for(timeout=10_000)
        keys.press("ArrowLeft")
        tab_to(".bsft-head .bsft-stop", back=True)
        page.shot("lab-keys-document")
        assert not run.stop_signal.control.exists()
        keys.press("Enter")
        page.page.get_by_text("Asked keys-1 to stop").first.wait_for(timeout=10_000)
        assert run.stop_signal.control.exists() and page.said == []


CUT = """root => [...root.querySelectorAll('*')].flatMap(e => {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  if (!box.width || !box.height || e.closest('.bsft-hidden') || style.visibility === 'hidden') return [];
  const found = [], name = `${e.tagName}.${e.className} ${(e.innerText ?? '').slice(0, 40)}`;
  const short = style.textOverflow === 'ellipsis' || ['auto', 'scroll'].includes(style.overflowX);
  if (style.overflowX !== 'visible' && !short && e.scrollWidth > e.clientWidth + 1 && e.tagName !== 'svg') found.push(`cut: ${name}`);
  let rolls = false;
  for (let p = e.parentElement; p && p !== root; p = p.parentElement) rolls ||= ['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX);
  const edge = root.getBoundingClientRect();
  if (!rolls && (box.right > edge.right + 1 || box.left < edge.left - 1)) found.push(`sticks out: ${name}`);
  return found;
})"""


def test_nothing_is_cut_off_at_150_percent(sidebar, runs, whole):
    live = runs("large-letters")
    with under_way(live):
        page = sidebar("zoom", zoom=1.5)
        page.card("large-letters").get_by_text("train ").wait_for(timeout=30_000)
        found = page.page.locator(".bsft-sidebar").evaluate(CUT)
        page.open("large-letters")
        page.shot("lab-zoom-live")
        found += page.document().evaluate(CUT)
        page.open("whole-1").locator(".bsft-verdict li").first.wait_for(timeout=30_000)
        page.shot("lab-zoom-overview")
        found += page.document().evaluate(CUT)
        for tab in ("Data", "Compare", "Log", "Settings"):
            page.tab(tab).locator("tbody tr, .bsft-log").first.wait_for(timeout=60_000)
            page.shot(f"lab-zoom-{tab.lower()}")
            found += [f"{tab}: {fault}" for fault in page.document().evaluate(CUT)]
    assert not found and page.said == [], "\n".join(found)


@pytest.mark.slow
def test_a_comparison_of_100_000_rows_is_paged_searched_and_filtered(sidebar, runs):
    sys.path.insert(0, str(ROOT / "tests/bench"))
    from panels import rows

    n = 100_000
    write_table(runs("large-1").path / "compare.jsonl", rows(n))
    page = sidebar("large")
    page.open("large-1")
    panel = page.tab("Compare")
    panel.get_by_text("1–25 of 100,000").wait_for(timeout=120_000)
    lost = sum(i % 11 > 0 and i % 7 == 0 for i in range(n))
    panel.get_by_role("button", name=f"regressed {lost:,}").wait_for(timeout=120_000)
    panel.get_by_role("button", name="Last page").click()
    panel.get_by_text("99,976–100,000 of 100,000").wait_for(timeout=30_000)
    assert panel.locator(".bsft-compare > tbody > tr").count() == 25, "only what is seen is drawn"
    panel.get_by_role("button", name="Open 100000", exact=True).click()
    panel.locator(".bsft-detail").get_by_text("that 99999").first.wait_for(timeout=30_000)
    panel.get_by_role("button", name=f"regressed {lost:,}").click()
    panel.get_by_text(f"1–25 of {lost:,}").wait_for(timeout=60_000)
    panel.get_by_role("searchbox").fill(" 99995")
    panel.get_by_text("1–1 of 1 ").wait_for(timeout=60_000)
    page.shot("lab-large")
    assert page.said == []
