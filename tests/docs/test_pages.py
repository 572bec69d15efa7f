"""The pages of the site, without building it: each is in its place, leads somewhere, and shows what the code says today."""
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
SECTIONS = ("tutorials", "guides", "explanations", "reference")
PAGES = sorted(p for s in SECTIONS for p in (NBS / s).iterdir() if p.suffix in (".ipynb", ".md"))
LINK = re.compile(r"(?<!!)\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("conf", NBS / "conf.py")
    spec.loader.exec_module(made := importlib.util.module_from_spec(spec))
    return made


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def prose(path: Path) -> str:
    "The text of a page, without the code cells."
    return "\n\n".join("".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown") if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


def test_each_page_has_its_place_in_the_order(conf):
    listed = [name for names in conf.CONTENTS.values() for name in names]
    assert len(set(listed)) == len(listed)
    assert {n for n in listed if n.startswith(SECTIONS)} == {p.relative_to(NBS).with_suffix("").as_posix() for p in PAGES}
    packages = set(re.findall(r"^(\w+)/\*$", (NBS / "modules.md").read_text(encoding="utf-8"), flags=re.M))
    assert packages == {p.name for p in NBS.iterdir() if p.is_dir() and p.name not in SECTIONS and [*p.glob("*.ipynb")]}


@pytest.mark.parametrize("path", [*PAGES, *sorted(p for p in NBS.rglob("*.ipynb") if p not in PAGES and ".ipynb_checkpoints" not in p.parts), *(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_has_a_title_says_what_it_is_for_and_leads_somewhere(path):
    text = prose(path)
    if path in PAGES:
        assert re.match(r"# \S.*\n\n> \S", text), "a title, and a line that says what the page is for"
    to = [link.partition("#")[0] for link in LINK.findall(re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.S)) if not re.match(r"https?:|#|mailto:", link)]
    assert [link for link in to if not (path.parent / link).exists()] == []


@pytest.mark.parametrize(("name", "tables"), [("reference/arguments", 5), ("reference/commands", 5), ("reference/formats", 6), ("guides/target", 1)])
def test_a_page_made_from_a_table_shows_what_the_table_says_today(name, tables):
    space, shown = {}, 0
    for cell in cells(NBS / f"{name}.ipynb"):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if not source.startswith("#| echo: false\n"):
            exec(source, space)
            continue
        saved = "".join(cell["outputs"][0]["data"]["text/markdown"])
        assert saved == eval(source.partition("\n")[2], space).data, f"jupyter nbconvert --to notebook --execute --inplace nbs/{name}.ipynb, then nbdev_clean"
        shown += 1
    assert shown == tables


def test_a_cell_is_shown_without_what_only_nbdev_reads(conf):
    def read(source, kind="code"):
        return conf.as_read({"cell_type": kind, "source": source, "metadata": {}})

    assert read("#| hide\nimport os") is None and read("#| default_exp run.files") is None and read(" ") is None
    exported, quiet = read("#| export\nx = 1"), read("#| echo: false\nx")
    assert exported["source"] == "x = 1" and exported["metadata"]["tags"] == ["exported"]
    assert quiet["source"] == "x" and quiet["metadata"]["tags"] == ["remove-input"]
    assert read("#| no directive", "markdown")["source"] == "#| no directive"


@pytest.mark.parametrize("path", [p for p in PAGES if p.suffix == ".ipynb"], ids=lambda p: p.stem)
def test_what_only_an_output_shows_is_saved(path):
    for cell in cells(path):
        if "".join(cell["source"]).startswith("#| echo: false"):
            assert cell["outputs"], "execute the notebook and save it"


def test_no_cell_has_another_ones_id():
    twice = {p.name: found for p in NBS.rglob("*.ipynb") if (found := {i for i, n in Counter(c["id"] for c in cells(p)).items() if n > 1})}
    assert twice == {}


def test_the_version_is_the_same_wherever_it_is_repeated():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    version = settings["DEFAULT"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "bsft_nb/__init__.py").read_text(encoding="utf-8")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert json.loads((ROOT / "lab/package.json").read_text(encoding="utf-8"))["version"] == version


def test_what_a_package_index_shows_has_no_link_into_the_repository_that_leads_nowhere():
    shown = subprocess.run([sys.executable, "setup.py", "--quiet", "--long-description"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = [link for link in re.findall(r"\]\(([^)\s]+)\)", readme) if not link.startswith("http")]
    assert "nbs/images/run.png" in inside and not re.findall(r"\]\((?!https?:)", shown)
    assert re.sub(r"https://github.com/[\w-]+/[\w-]+/(blob|raw)/main/", "", shown).strip() == readme.strip()
    assert re.findall(r"/(raw|blob)/main/nbs/(?:images/run.png|tutorials/quickstart.ipynb)", shown) == ["raw", "blob"]
