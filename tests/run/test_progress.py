"""View state is a pure function of the events, of bounded size, and robust against what it does not know."""
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsft_nb.run.events import KINDS, Event
from bsft_nb.run.progress import MOST_POINTS, State, add_point, reduce, reduce_all
from bsft_nb.run.steps import (
    eta,
    left_of,
    money_of,
    seconds_by_step,
    share_of,
    step_now,
    steps_of,
)
from bsft_nb.run.views import TextProgress, describe, show_number, show_seconds

names = st.sampled_from(["kept", "reason", "again", "tokens", "cost", "latency", "note", "model", "which", "status", "type", "message", "funnel"])
events = st.builds(Event, st.sampled_from([*KINDS]), st.floats(0, 1e6), st.dictionaries(names, st.none(), max_size=4))


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=20))
def test_events_with_missing_fields_do_no_harm(log):
    state = reduce_all(log)
    assert isinstance(describe(state, 1e6), str) and state == reduce_all(log)


def test_the_state_given_is_not_changed():
    before = reduce(State(), Event("trace", 1, {"kept": False, "reason": "rejected", "again": False}))
    copy = dict(before.reasons)
    reduce(before, Event("trace", 2, {"kept": False, "reason": "rejected", "again": False}))
    assert before.reasons == copy == {"rejected": 1}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4000), st.booleans())
def test_curves_are_bounded_and_keep_the_ends(steps, end_known):
    curve = ()
    for step in range(1, steps + 1):
        curve = add_point(curve, step, float(step), steps if end_known else None)
    assert len(curve) <= MOST_POINTS + 1 and curve[-1] == (steps, float(steps))
    xs = [x for x, _ in curve]
    assert xs == sorted(set(xs))


def test_a_training_that_goes_on_from_a_checkpoint_takes_back_what_it_repeats():
    train = [Event("train", i, {"model": "m", "step": i, "steps": 9, "loss": float(i)}) for i in range(1, 7)]
    again = [Event("train", 10, {"model": "m", "step": 4, "steps": 9, "loss": 0.5})]
    assert reduce_all(train + again).curves["m"]["loss"] == ((1, 1.0), (2, 2.0), (3, 3.0), (4, 0.5))


def test_models_one_after_another_keep_their_own_curves():
    state = reduce_all([Event("train", i, {"model": m, "step": 1, "steps": 2, "loss": x, "lr": 0.1}) for i, (m, x) in enumerate([("a", 1.0), ("b", 2.0)])])
    assert (state.curves["a"]["loss"], state.curves["b"]["loss"], state.loss) == (((1, 1.0),), ((1, 2.0),), 2.0)


def test_costs_of_an_earlier_run_are_not_counted_again():
    d = {"kept": True, "reason": "", "score": 1.0, "attempt": 0, "tokens": {"input": 10, "output": 5}, "cost": 0.25, "latency": 2.0}
    state = reduce_all([Event("trace", 1, {**d, "again": False}), Event("trace", 2, {**d, "again": True})])
    assert (state.tried, state.again, state.tokens, state.cost, state.latency, state.timed) == (2, 1, 15, 0.25, 2.0, 1)


def test_stages_scores_warnings_and_the_end():
    log = [
        Event("run", 0, {"id": "r"}),
        Event("bootstrap", 1, {"examples": 5, "teachers": 2}),
        Event("data", 3, {"funnel": {"tried": {"all": 5}}, "note": "4 pairs"}),
        Event("train", 4, {"model": "model", "step": 2, "steps": 10, "loss": 1.0, "eta_s": 8.0}),
        Event("score", 5, {"model": "model", "epoch": 1, "score": 0.5, "n": 4, "which": "checkpoint"}),
        Event("warn", 6, {"note": "few rows"}),
    ]
    state = reduce_all(log)
    assert (state.stage, state.teachers, state.funnel, state.warnings) == ("train model", 2, {"tried": {"all": 5}}, ("few rows",))
    assert eta(state, 7) == 7.0 and state.curves["model"]["score"] == ((2, 0.5),)
    state = reduce_all([Event("score", 8, {"model": "model", "score": 0.75, "n": 4, "which": "tuned"}), Event("error", 9, {"type": "Stopped", "message": "on request"}), Event("done", 9, {"status": "stopped"})], state)
    assert (state.scores["tuned"], state.status, state.error, eta(state, 10)) == ({"score": 0.75, "n": 4}, "stopped", "Stopped: on request", None)
    assert list(state.stages) == ["run", "bootstrap", "data", "train model", "score", "stopped"]


def test_text_says_the_last_figures_of_a_stage_and_every_warning():
    out, ticks = io.StringIO(), iter(range(1000))
    show = TextProgress(every=1e9, out=out, clock=lambda: next(ticks))
    for e in [Event("run", 0, {"id": "r"}), *(Event("trace", i, {"kept": True, "reason": "", "again": False}) for i in range(3)), Event("warn", 4, {"note": "careful"}), Event("data", 5, {"note": "3 pairs"})]:
        show(e)
    assert "3 attempts" in out.getvalue() and "warning: careful" in out.getvalue() and out.getvalue().endswith("3 pairs\n")


def test_numbers_have_units_and_no_false_precision():
    assert show_seconds(float("nan")) == show_seconds(float("inf")) == show_number(float("nan")) == "–"
    assert (show_seconds(3599.6), show_seconds(86400), show_number(0.000123), show_number(-2), show_number(float("inf"))) == ("1 h 0 min", "24 h 0 min", "0.000123", "-2", "inf")


def test_a_compile_that_found_its_work_done_shows_that_work():
    work = [Event("run", 0, {"id": "r"}), Event("trace", 1, {"kept": True, "reason": "", "again": False}), Event("train", 2, {"model": "model", "step": 3, "steps": 3, "loss": 0.5})]
    first = reduce_all([*work, Event("done", 4, {"status": "finished"})])
    found = [Event("run", 9, {"id": "r"}), Event("data", 9, {"reused": True, "note": "already trained"}), Event("done", 9, {"status": "finished"})]
    second = reduce_all(found, first)
    assert (second.tried, second.loss, second.curves, second.status) == (1, 0.5, first.curves, "finished")
    assert second.reused == "already trained" and reduce_all(found, second).reused and not reduce_all(work, second).reused
    assert reduce_all([Event("run", 9, {"id": "r"})], first).tried == 0, "one that begins anew shows only itself"


def sessions():
    "A run that was stopped while it scored its second checkpoint, died in its second session, and finished in the third."

    def trained(t, steps):
        return [Event("train", t + i, {"model": "m", "step": s, "steps": 40, "loss": 1 / s}) for i, s in enumerate(steps, 1)]

    def score(t, step):
        return Event("score", t, {"which": "checkpoint", "model": "m", "step": step, "epoch": step // 10, "score": step / 40})

    def run(t):
        return Event("run", t, {"id": "r", "key": "k"})

    first = [run(100), *trained(100, range(1, 11)), score(112, 10), *trained(112, range(11, 23)), Event("error", 125, {"type": "Stopped", "message": "on request"}), Event("done", 125, {"status": "stopped"})]
    second = [Event("data", 9000, {"note": "checking"}), run(9001), *trained(9001, range(23, 29))]
    third = [Event("error", 80_000, {"type": "Died", "message": "gone"}), Event("done", 80_000, {"status": "died"}), run(90_000), *trained(90_000, range(21, 41)), score(90_022, 40), score(90_024, 20), Event("score", 90_030, {"which": "tuned", "score": 1.0, "n": 4}), Event("done", 90_031, {"status": "finished"})]
    return first, second, third


def test_a_resumed_run_keeps_its_curves_and_adds_its_seconds():
    first, second, third = sessions()
    state = reduce_all([*first, *second, *third])
    assert [s for s, _ in state.curves["m"]["loss"]] == list(range(1, 41))
    assert [s for s, _ in state.curves["m"]["score"]] == [10, 20, 40], "also the one that was scored late"
    assert sum(state.spent.values()) == 25 + 6 + 31 and seconds_by_step(state)["Train"] > 50, "nights do not count"
    assert (state.began, state.error, state.status) == (100, "", "finished")
    once = reduce_all(third, reduce_all(second, reduce_all(first)))
    assert once == state, "whoever looks in between sees the same"
    assert {s.name: s.how for s in steps_of(reduce_all([*first, *second]), 9010)}["Train"] == "now"


def test_a_silent_stage_says_how_far_it_is():
    asked = {"stage": "scoring", "which": "checkpoint", "model": "m", "step": 10, "epoch": 3, "of": 100}
    log = [*sessions()[0][:11], *(Event("stage", 110 + i, {**asked, "done": 4 * i}) for i in range(4))]
    state = reduce_all(log)
    assert describe(state, 114) == "scoring checkpoint 3 (12 of 100), 13 s, 21 s left" and (share_of(state), step_now(state)) == (0.12, "Train")
    beside = reduce_all([Event("train", 115, {"model": "m", "step": 11, "steps": 40, "loss": 1.0}), Event("stage", 116, {**asked, "done": 50})], state)
    assert beside.stage == "train m" and "scoring checkpoint 3 (50 of 100)" in describe(beside, 116), "another process trains on"
    assert [describe(reduce_all([Event("stage", 117, {"stage": s})], state), 118) for s in ("starting trainer", "loading model")] == ["starting trainer, 2.0 s", "loading model, 2.0 s"]


def test_what_is_done_within_a_training_is_told_and_the_training_goes_on():
    log = sessions()[0][:11]
    before = reduce_all(log)
    asked = {"stage": "scoring", "which": "checkpoint", "model": "m", "step": before.step - 1, "epoch": 1, "of": 100}
    log += [Event("stage", 110, {**asked, "done": 50})]  # from the kernel, beside the training
    log += [Event("stage", 110 + i, {"stage": "held-out loss", "model": "m", "done": 4 * i, "of": 20}) for i in range(4)]
    held = reduce_all(log)
    assert describe(held, 114) == "held-out loss (12 of 20), 13 s, 1.0 s left" and (share_of(held), step_now(held)) == (0.6, "Train")
    assert held.scoring["done"] == 50, "what goes on beside it stays known"
    log += [Event("stage", 114, {"stage": "held-out loss", "model": "m", "done": 20, "of": 20, "over": True})]
    log += [Event("stage", 115 + i, {"stage": "writing checkpoint", "model": "m", "done": 500 * i, "of": 2000, "unit": "MB"}) for i in range(4)]
    writing = reduce_all(log)
    assert describe(writing, 118).startswith("writing checkpoint (1,500 of 2,000 MB), ") and share_of(writing) == 0.75
    on = reduce_all([*log, Event("stage", 119, {"stage": "writing checkpoint", "model": "m", "over": True})])
    assert (on.stage, on.doing, on.step, on.curves) == ("train m", {}, before.step, before.curves)
    again = reduce_all([*log, Event("run", 900, {"id": on.run})])
    assert again.doing == {}, "who was killed while writing writes no more"



def test_the_paid_stage_counts_calls_money_and_examples():
    log = [Event("run", 1, {"id": "r"}), Event("bootstrap", 2, {"examples": 10, "teachers": 1, "rounds": 3})]
    log += [Event("trace", 2, {"kept": True, "attempt": 0, "again": True, "cost": 5.0})] * 2
    log += [Event("trace", 2 + 10 * i, {"kept": True, "attempt": 1, "again": False, "cost": 0.5}) for i in range(1, 5)]
    state = reduce_all([*log, Event("stage", 44, {"stage": "bootstrap", "calls": 9, "cost": 2.25})])
    assert share_of(state) == 0.6 and left_of(state, 44) == 42.0 and money_of(state) == (2.25, 4.5), "what the ledger settled cost nothing"
    assert "9 LM calls" in describe(state, 44) and "$2.25 of about $4.5" in describe(state, 44)


def test_every_view_tells_one_sum_of_all_sessions_of_the_run():
    from bsft_nb.lab.cards import live_card
    from bsft_nb.results.overview import now_html

    session = [Event("bootstrap", 2, {"examples": 10, "teachers": 1, "rounds": 3})]
    paid = [Event("trace", 2 + i, {"kept": True, "attempt": 0, "again": False, "cost": 0.5}) for i in range(1, 4)]
    log = [Event("run", 1, {"id": "r", "key": "k"}), *session, *paid, Event("stage", 6, {"stage": "bootstrap", "calls": 4, "cost": 1.75})]
    one = reduce_all(log)
    assert money_of(one) == (1.75, pytest.approx(1.75 / 3 * 10)) and live_card(one, 6)["cost"] in now_html(one, 6) and "session" not in now_html(one, 6)
    log += [Event("run", 100, {"id": "r", "key": "k"}), *session, *(Event("trace", 101, {**e.data, "again": True}) for e in paid)]
    log += [Event("trace", 102 + i, {"kept": True, "attempt": 1, "again": False, "cost": 1.0}) for i in range(3)]
    state = reduce_all(log)
    assert money_of(state) == (4.75, 1.75 + 3.0 / 3 * 7), "killed in the middle of an attempt: its calls were paid for"
    assert live_card(state, 105)["cost"] == "$4.75 of about $8.8 in all sessions"
    for view in (now_html(state, 105), describe(state, 105)):
        assert "$4.75 of about $8.8 in all sessions" in view
    ended = reduce_all([*log, Event("done", 110, {"status": "finished"})])
    reused = reduce_all([Event("run", 200, {"id": "r", "key": "k"}), Event("data", 201, {"reused": True, "note": "used again"})], ended)
    assert ended.cost == reused.cost == money_of(reused)[0] == 4.75
    assert money_of(reduce_all([*log, Event("run", 300, {"id": "r", "key": "another"}), *session])) == (0.0, None), "what another compile paid is not this one's"
