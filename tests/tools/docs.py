"""The site, from the notebooks as they are saved, into `_docs/<version>`; its links are followed. Warnings are errors.

    python tests/tools/docs.py [--serve [PORT]]

It prints pages, seconds, warnings and links. `--serve` builds nothing and serves what there is on this machine.
"""
import http.server
import json
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_docs"


class Page(HTMLParser):
    "What a page points at, and the names that can be pointed at in it."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names |= {given[n] for n in ("id", "name") if given.get(n)}
        self.links += [given[n] for n in ("href", "src") if given.get(n)]


def broken_links(site: Path) -> tuple[int, list[str]]:
    "How many links within the site there are, and a sentence for each that leads nowhere."
    pages = {p.resolve(): Page(p) for p in site.rglob("*.html")}
    count, broken = 0, []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or (parts.fragment == "" and parts.path == ""):
                continue
            count += 1
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            if not to.is_file() or (parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].names):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return count, broken


def version() -> str:
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]["version"]


def write_entry(site: Path, here: str):
    "The page that leads to version `here`, and the list of the versions that lie in `site`, for the sidebar."
    versions = sorted((p.parent.name for p in site.glob("*/index.html")), key=lambda v: [int(n) for n in re.findall(r"\d+", v)], reverse=True)
    (site / "versions.js").write_text(f"window.bsftVersions = {json.dumps(versions)};\n", encoding="utf-8")
    (site / "index.html").write_text(f'<!doctype html><meta charset="utf-8"><title>bsft_nb</title><meta http-equiv="refresh" content="0; url={here}/index.html"><a href="{here}/index.html">bsft_nb {here}</a>\n', encoding="utf-8")


def build() -> int:
    began, out = time.monotonic(), SITE / version()
    for old in (out, SITE / ".doctrees"):  # warnings come only where a page is read
        shutil.rmtree(old, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "sphinx", "-b", "html", "-j", "auto", "-W", "--keep-going", "-q", "-d", SITE / ".doctrees", "nbs", out], cwd=ROOT, capture_output=True, text=True)
    warnings = [line for line in done.stderr.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL):", line)]
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return done.returncode
    shutil.rmtree(SITE / "jupyter_execute", ignore_errors=True)  # MyST-NB's copies of the notebooks
    write_entry(SITE, out.name)
    count, broken = broken_links(SITE)
    print("\n".join(broken), end="\n" * bool(broken))
    print(f"{len(list(out.rglob('*.html')))} pages in {time.monotonic() - began:.0f} s, {len(warnings)} warnings, {len(broken)} of {count:,} links within the site broken: {SITE / 'index.html'}")
    return bool(broken)


def serve(port: int):
    "Serve the site on this machine."
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int((sys.argv[2:] or ["8001"])[0]))
    else:
        sys.exit(build())
