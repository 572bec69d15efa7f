"""The site: Sphinx reads the notebooks as they are saved and executes none. `make docs` calls it."""
import json
import os
import re
import sys
from configparser import ConfigParser
from pathlib import Path

NBS = Path(__file__).parent
sys.path.insert(0, str(NBS.parent))
settings = ConfigParser(delimiters=["="])
settings.read(NBS.parent / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project, author, release = settings["title"], settings["author"], settings["version"]
project_copyright = settings["copyright"]
language = "en"
smartquotes = False  # options begin with two dashes
extensions = ["myst_nb", "sphinx_copybutton", "sphinxext.opengraph", "sphinx_sitemap"]
exclude_patterns = ["_*", "**/.ipynb_checkpoints", "**/_*"]
templates_path = ["_templates"]

# Notebooks
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # widgets leave HTML in the cell
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]  # a widget's view stands beside the HTML that is shown

# HTML. Nothing is fetched when a page is opened: fonts are the system's, formulas are MathML
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("versions.js", {"defer": "defer"})]
html_math_renderer = "mathml"
html_copy_source, html_sourcelink_suffix = True, ""
html_show_sphinx = False
html_permalinks_icon = "#"
html_theme_options = {"top_of_page_buttons": ["view"], "light_css_variables": {"color-brand-primary": "#1a6b4f", "color-brand-content": "#1a6b4f"}, "dark_css_variables": {"color-brand-primary": "#7fd1b0", "color-brand-content": "#7fd1b0"}}
html_sidebars = {"**": ["sidebar/brand.html", "sidebar/search.html", "sidebar/scroll-start.html", "sidebar/navigation.html", "sidebar/versions.html", "sidebar/scroll-end.html"]}
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div.cell_input pre, div.highlight-sh pre, div.highlight-python pre, div.highlight-yaml pre"

# Where the site is published; only the sitemap and the card of a shared link name it
html_baseurl = os.environ.get("DOCS_URL", f"https://{settings['user']}.github.io{settings['doc_baseurl']}/").rstrip("/") + f"/{release}/"
sitemap_url_scheme, sitemap_show_lastmod = "{link}", False
ogp_site_url, ogp_site_name, ogp_enable_meta_description = html_baseurl, project, True
ogp_social_cards = {"site_url": "", "description_max_length": 150}

# The order of the pages. It is added to the first one, which is the README as well
CONTENTS = {
    "Tutorials": ["tutorials/quickstart", "tutorials/rag_t5", "tutorials/extraction", "tutorials/classification", "tutorials/multi_hop", "tutorials/agent", "tutorials/remote_teacher", "tutorials/prompts_then_weights", "tutorials/cascade", "tutorials/cluster"],
    "How-to": [f"guides/{n}" for n in ("target", "traces", "cost", "better", "memory", "places", "runs", "data", "share", "serving", "production", "from_dspy", "from_trl")],
    "Explanations": [f"explanations/{n}" for n in ("attribution", "student_format", "shared_prefix", "engine", "keys", "checkpoints", "scale", "intervals", "security")],
    "Reference": [*(f"reference/{n}" for n in ("arguments", "commands", "run_folder", "events", "formats", "reuse", "refusals")), "modules"],
    "Project": ["contributing", "changelog"],
}


def toctree(title: str, pages: list[str]) -> str:
    "A table of contents that only the sidebar shows."
    return f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```\n"


def as_read(cell: dict) -> dict | None:
    "The cell as the page shows it, without nbdev's directives; `None` for one that is for the machine."
    text = "".join(cell["source"])
    if cell["cell_type"] == "code" and (not text.strip() or re.match(r"#\|\s*(hide|default_exp)\b", text)):
        return None
    if cell["cell_type"] == "code" and re.match(r"#\|\s*export\b", text):
        cell["metadata"]["tags"] = ["exported"]  # the style marks it: this is the module's code
    if cell["cell_type"] == "code" and re.match(r"#\|\s*echo: false\b", text):
        cell["metadata"]["tags"] = ["remove-input"]
    cell["source"] = re.sub(r"^#\|.*\n?", "", text, flags=re.M) if cell["cell_type"] == "code" else text
    return cell


def read_source(app, name: str, source: list[str]):
    "Pages are the notebooks, but for what only nbdev reads."
    if source[0].startswith("{"):
        notebook = json.loads(source[0])
        notebook["cells"] = [c for c in map(as_read, notebook["cells"]) if c]
        if name == "index":
            notebook["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": "\n".join(toctree(*c) for c in CONTENTS.items())})
        source[0] = json.dumps(notebook)


def show_math(block: bool):
    "Formulas as MathML, which browsers draw by themselves."
    from docutils.nodes import SkipNode
    from docutils.utils.math.latex2mathml import tex2mathml

    def visit(writer, node):
        writer.body.append(tex2mathml(node.astext(), as_block=block))
        raise SkipNode

    return visit, None


def setup(app):
    app.connect("source-read", read_source)
    app.add_html_math_renderer("mathml", inline_renderers=show_math(False), block_renderers=show_math(True))
