"""The demo's tickets: complete, varied, and no ticket of one split known from another."""
import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations, product

import pytest

TEAMS = {"billing", "shipping", "returns", "account", "technical", "sales"}
URGENCIES = {"low", "normal", "high"}
SIZES = {"train": 240, "dev": 60, "test": 100}
SPLITS = {s: [json.loads(line) for line in (files("bsft_nb.demo") / f"{s}.jsonl").read_text(encoding="utf-8").splitlines()] for s in SIZES}
TICKETS = [(split, row["ticket"]) for split, rows in SPLITS.items() for row in rows]


def trigrams(text: str) -> set[tuple]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def likeness(a: set, b: set) -> float:
    "Share of the shorter text's trigrams that the longer has too."
    return len(a & b) / max(1, min(len(a), len(b)))


@pytest.mark.parametrize("split", SIZES)
def test_rows(split):
    rows = SPLITS[split]
    assert len(rows) == SIZES[split]
    assert all(set(r) == {"ticket", "team", "urgency"} for r in rows)
    assert all(r["ticket"] == r["ticket"].strip() and len(trigrams(r["ticket"])) >= 3 for r in rows)
    assert {r["team"] for r in rows} == TEAMS
    assert {r["urgency"] for r in rows} == URGENCIES


def test_every_label_pair_is_taught():
    pairs = Counter((r["team"], r["urgency"]) for r in SPLITS["train"])
    assert set(pairs) == set(product(TEAMS, URGENCIES))


def test_tickets_vary():
    texts = [t for _, t in TICKETS]
    lengths = sorted(map(len, texts))
    assert lengths[0] < 60 and lengths[-1] > 250
    lower = sum(t == t.lower() for t in texts)
    shouted = sum(bool(re.search(r"\b[A-Z]{4,}\b", t)) for t in texts)
    assert 0.02 < lower / len(texts) < 0.5, "some, not most, are all lower case"
    assert shouted > 0
    assert len(set(texts)) == len(texts)


def test_no_near_duplicates_across_splits():
    known = [(split, text, trigrams(text)) for split, text in TICKETS]
    alike = [(a[:2], b[:2]) for a, b in combinations(known, 2) if a[0] != b[0] and likeness(a[2], b[2]) >= 0.5]
    assert alike == []


def edited(ticket: str) -> str:
    "Another first word, no capitals, a courtesy at the end."
    return "Well " + ticket.split(" ", 1)[1].lower() + " Thanks in advance!"


def test_an_edited_copy_is_seen():
    blind = [t for _, t in TICKETS if likeness(trigrams(t), trigrams(edited(t))) < 0.5]
    assert blind == []
