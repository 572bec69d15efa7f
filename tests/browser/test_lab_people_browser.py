"""The sidebar as people work with it: beside a kernel that is busy, in two browsers, enlarged."""
import pytest
from labs import compile_elsewhere, under_way
from test_progress_browser import ARGS, SETUP


@pytest.mark.slow
def test_stop_in_the_sidebar_ends_a_run_whose_kernel_is_busy(notebook):
    nb = notebook("kernel-blocks", [SETUP, f"compiled = optimizer().compile({ARGS}, epochs=3000, launch='inline')"])  # the kernel itself trains
    nb.run(0)
    nb.command("bsft:show-sidebar")
    nb.begin(1)
    card = nb.page.locator(".bsft-card[data-status=running]").first
    card.get_by_text("train ").wait_for(timeout=90_000)
    run = card.locator(".bsft-open").inner_text()
    nb.shot("lab-kernel-blocks")
    card.get_by_role("button", name="Stop").click()
    nb.page.locator(f".bsft-card[data-status=stopped]:has-text('{run}')").wait_for(timeout=60_000)
    nb.ended(1, 30)
    nb.see(1, ": stopped")
    nb.shot("lab-kernel-blocks-stopped")
    assert nb.page.locator(".bsft-card[data-status=running]").count() == 0 and nb.alerts == []


@pytest.mark.slow
def test_two_browsers_show_one_run_and_both_see_who_stops_it(sidebar, lab):
    pages = [sidebar("one"), sidebar("two")]
    process = compile_elsewhere(lab[1], 3001)
    try:
        cards = [page.page.locator(".bsft-card[data-status=running]").first for page in pages]
        for card in cards:
            card.get_by_text("train ").wait_for(timeout=90_000)
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
