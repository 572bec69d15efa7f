"""The built site in a headless Chromium: no page asks anything outside for anything, search finds, dark mode, copying and the menu of versions work.

    python tests/docs/in_browser.py [SITE] [--pictures FOLDER]

Requests that leave this machine are refused and counted. Exit 1 where there was one, a file was missing, or a script failed.
"""
import os
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
LOOKS = [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)]
SHOWN = ["index", "tutorials/rag_t5", "explanations/shared_prefix", "reference/arguments", "guides/target", "modules", "training/01_packing"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def serve(site: Path) -> str:
    "The address of the site on this machine."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


class Watch:
    "Counts what a browser asks for, and what went wrong."

    def __init__(self, context, address: str):
        self.address, self.asked, self.outside, self.wrong = address, 0, [], []
        context.route("**/*", self.look)
        context.on("response", lambda r: self.wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        context.on("weberror", lambda e: self.wrong.append(str(e.error)))

    def look(self, route):
        self.asked += 1
        if route.request.url.startswith(self.address):
            return route.continue_()
        self.outside.append(route.request.url)
        route.abort()


def try_search(page, address: str, version: str) -> int:
    "Results of a search for a word that has pages of its own."
    page.goto(f"{address}{version}/search.html?q=rejection+sampling")
    page.wait_for_selector("#search-results li", timeout=20000)
    return page.locator("#search-results li").count()


def too_wide(page) -> bool:
    "Does the page scroll sideways?"
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")


def offered_versions(page, address: str, version: str) -> list[str]:
    "What the menu offers where a newer version lies beside this one."
    page.route(f"{address}versions.js", lambda route: route.fulfill(body=f'window.bsftVersions = ["99.0", "{version}"];', content_type="text/javascript"))
    page.goto(f"{address}{version}/index.html")
    page.wait_for_selector("#versions option", state="attached")
    assert page.locator("#versions").input_value() == version
    return page.locator("#versions option").all_inner_texts()


def main(site: Path, pictures: Path | None) -> int:
    address, problems = serve(site), []
    version = next(p.parent.name for p in site.glob("*/index.html"))
    pages = sorted(p.relative_to(site).as_posix() for p in (site / version).rglob("*.html"))
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 400, "height": 800}, permissions=["clipboard-read", "clipboard-write"])
        watch, page = Watch(context, address), context.new_page()
        page.goto(address)
        page.wait_for_url(f"{address}{version}/index.html")
        for name in pages:
            page.goto(address + name)
            if too_wide(page):
                problems.append(f"{name} is wider than 400 pixels")
        found = try_search(page, address, version)
        page.goto(f"{address}{version}/index.html")
        page.locator("button.copybtn").first.evaluate("b => b.click()")
        page.wait_for_function("navigator.clipboard.readText().then(t => t.includes('pip install'))")
        before = page.evaluate("document.body.dataset.theme")
        page.locator(".theme-toggle-header .theme-toggle").click()
        if page.evaluate("document.body.dataset.theme") == before:
            problems.append("the button for dark mode does nothing")
        if (offered := offered_versions(page, address, version)) != ["99.0", version]:
            problems.append(f"the menu offers the versions {offered}")
        with page.expect_download() as download:
            page.goto(f"{address}{version}/tutorials/quickstart.html")
            page.locator(".download-notebook a").evaluate("a => a.click()")
        if not download.value.suggested_filename.endswith(".ipynb"):
            problems.append("no notebook is downloaded")
        for theme, width in LOOKS if pictures else []:
            shown = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
            Watch(shown, address)
            tab = shown.new_page()
            for name in SHOWN:
                tab.goto(f"{address}{version}/{name}.html")
                tab.screenshot(path=pictures / f"{name.replace('/', '-')}-{theme}-{width}.png")
        browser.close()
    problems += [f"outside: {u}" for u in watch.outside] + watch.wrong + ["search finds nothing"] * (not found)
    print("\n".join(problems), end="\n" * bool(problems))
    print(f"{len(pages)} pages opened, {watch.asked:,} requests, {len(watch.outside)} to the outside, {found} results of a search, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if not a.startswith("--")]
    pictures = Path(given.pop()) if "--pictures" in sys.argv else None
    if pictures:
        os.makedirs(pictures, exist_ok=True)
    sys.exit(main(Path(given[0]) if given else ROOT / "_docs", pictures))
