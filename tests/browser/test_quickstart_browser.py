"""The quickstart as a person runs it, with a tiny model for the real one and a teacher that knows the labels."""
import re
from pathlib import Path

import nbformat
from test_progress_browser import SETUP, html_outputs

TEACHER = """known = {t.ticket: dict(team=t.team) for split in ("train", "dev", "test") for t in tickets(split)}
lm = teacher_lm(lambda text: next(known[t] for t in known if t in text))"""


def cells() -> list[str]:
    source = [c.source for c in nbformat.read(Path(__file__).parents[2] / "nbs/tutorials/quickstart.ipynb", 4).cells if c.cell_type == "code"]
    asks = next(i for i, s in enumerate(source) if "lm = local_lm(" in s)
    source[asks] = re.sub(r"lm = local_lm\(.*\)", lambda _: TEACHER, source[asks]).replace("StudentAdapter(full_instructions=True)", "dspy.ChatAdapter()")
    assert "teacher_lm" in source[asks] and sum('target="smollm2-135m"' in s for s in source) == 2
    return [f"{SETUP}\n{source[0]}", *(s.replace('target="smollm2-135m"', "target=tiny") for s in source[1:])]


def test_the_quickstart_runs_shows_itself_and_stays(notebook):
    made = cells()
    nb = notebook("quickstart", made)
    for i in range(len(made)):
        nb.run(i, 300)
    compiles = [i for i, s in enumerate(made) if "tp.compile(" in s]
    nb.see(compiles[0], ": finished")
    assert any("Verdict: " in nb.text(i) for i in range(len(made))), "it ends with a verdict in words"
    nb.shot("quickstart", compiles[0])
    nb.see(compiles[1], "already trained")
    nb.shot("quickstart-again", compiles[1])
    saved = nb.saved()
    assert ": <bdi>finished" in html_outputs(saved, compiles[0]) and nb.alerts == [] and nb.path.stat().st_size < 500_000
