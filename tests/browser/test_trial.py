"""The page of a trial while it is trained, and at each of its ends."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from benchmarks.server import filling
from nestor.schemas import State, Step
from nestor_server.scheduling import leases, recording
from tests.browser.conftest import expect_steps
from tests.server.conftest import ok, step


def tile(page, question: str):
    return page.locator(".tile").filter(has_text=question)


def chart(page):
    return page.locator(".slot-losses")


def test_the_curve_grows_as_steps_are_recorded(show, run):
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    expect(page.get_by_text("2 steps of 200")).to_be_visible()
    run.record(30)
    expect_steps(page, 32)
    expect(page.get_by_text("32 steps of 200")).to_be_visible()


def test_steps_that_are_withdrawn_disappear(show, server, run):
    run.checkpoint()
    run.record(10)
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 12)
    with server.sessions.begin() as session:
        leases.requeue(session, run.lease, "drained", paid_from="preemptions")
    run.claim()
    run.number = 2
    run.record(1)
    expect_steps(page, 3)
    expect(page.locator(".trial-head")).to_contain_text("Attempt 1 ended: drained")


def test_a_trial_has_buttons_for_what_is_allowed_and_only_for_that(show, run, api):
    def buttons(*names: str) -> None:
        expect(page.locator("[data-action]")).to_have_text(list(names))
        shown = {button.get_attribute("data-action") for button in page.locator("[data-action]").all()}
        assert shown - {"confirm"} == set(api.get(run.path).json()["allowed_actions"])

    page = show(f"#/trials/{run.id}")
    buttons("Pause", "Stop", "Prune", "Cancel")
    page.locator("[data-action=pause]").click()
    buttons("Resume", "Stop", "Prune", "Cancel")
    run.finish(State.failed, {"code": "diverged", "detail": "The loss is not finite at step 3. Lower the rate."})
    buttons("Retry")
    page.locator("[data-action=retry]").click()
    buttons("Pause", "Stop", "Prune", "Cancel")
    run.claim()
    run.finish()
    buttons("Extend")
    page.get_by_label("steps").fill("7")
    page.locator("[data-action=extend]").click()
    buttons("Pause", "Stop", "Prune", "Cancel")
    assert api.get(run.path).json()["n_steps"] == api.get(run.path).json()["step"] + 7


def test_a_failed_trial_shows_its_error_and_draws_no_axes(show, submit):
    failed = submit()
    failed.finish(State.failed, {"code": "diverged", "detail": "The loss is not finite at step 1. Lower the rate."})
    page = show(f"#/trials/{failed.id}")
    expect(page.get_by_text("The loss is not finite at step 1. Lower the rate.").first).to_be_visible()
    expect(chart(page)).to_contain_text("It ended before its first step")
    expect(chart(page).locator("canvas")).to_have_count(0)


def test_a_trial_that_waits_says_for_what(show, api, study):
    waiting = ok(api.post(f"/studies/{study}/trials", json={"problem": {"preset": {}}, "n_steps": 5}))
    page = show(f"#/trials/{waiting['id']}")
    expect(page.locator(".state").first).to_have_text("queued")
    expect(page.get_by_text("It waits for a worker.")).to_be_visible()


def diverged(number: int) -> Step:
    """A step whose linear solve failed, so that nothing is tuned."""
    return step(number).model_copy(update={"outcome": "diverged", "residual": 1.0, "hypergradient_norm": 0.0})


def test_a_trial_in_which_nothing_was_tuned_does_not_look_like_success(show, server, submit):
    """A green "complete" was all that the page said, where every solve diverged."""
    run = submit()
    with server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(steps=tuple(diverged(n + 1) for n in range(20))))
    run.finish()
    page = show(f"#/trials/{run.id}")
    answer = tile(page, "Can I believe").locator(".answer")
    expect(answer).to_have_text("No")
    expect(answer).to_have_attribute("data-answer", "no")
    expect(tile(page, "Can I believe")).to_contain_text("Use GaussNewton() as the curvature")
    red = page.evaluate("getComputedStyle(document.querySelector('[data-answer=no]')).color")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert red != ink


def test_held_out_examples_have_a_curve_and_watch_the_validation_set(show, run):
    run.record(30, held_out=0.125)
    page = show(f"#/trials/{run.id}")
    expect(chart(page)).to_contain_text("held-out")
    expect(tile(page, "Am I overfitting")).to_contain_text("held-out loss minus validation loss")
    expect(tile(page, "Did it get better?").locator(".answer")).to_have_text("0.125")


def test_the_baseline_stands_beside_what_was_tuned(show, submit, run):
    """A trial without it looks good whatever it reached."""
    page = show(f"#/trials/{run.id}")
    expect(tile(page, "Did it get better?")).not_to_contain_text("baseline")
    for _ in range(2):
        fixed = submit(response={"kind": "frozen"})
        fixed.record(5)
        fixed.finish()
    expect(tile(page, "Did it get better?")).to_contain_text("The baseline, trial 1, reached")
    tile(page, "Did it get better?").get_by_role("link", name="baseline").click()
    expect(page.locator("main h1")).to_contain_text("trial 1")
    expect(tile(page, "Did it get better?")).not_to_contain_text("baseline")


def test_without_other_examples_the_page_says_that_nothing_watches(show, run):
    page = show(f"#/trials/{run.id}")
    expect(tile(page, "Am I overfitting")).to_contain_text("Not measured")


def test_one_outlier_does_not_flatten_the_curve(show, server, submit):
    run = submit()
    run.record(40)
    outlier = step(41).model_copy(update={"train_loss": 400.0})
    with server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(steps=(outlier,)))
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 41)
    drawn = chart(page).locator("[data-steps]").first
    assert float(drawn.get_attribute("data-high") or "nan") < 10
    page.get_by_role("button", name="robust").click()
    expect(page.get_by_role("button", name="robust")).to_have_attribute("aria-pressed", "false")
    assert float(drawn.get_attribute("data-high") or "nan") >= 400


def test_warnings_are_marked_and_open_their_sentence(show, run):
    run.record(0, logs=(recording.LogRecord(2, "Every entry of 'l2' lies at a bound.", "warning"),))
    page = show(f"#/trials/{run.id}")
    expect(chart(page).get_by_text("Every entry of 'l2' lies at a bound.")).to_be_visible()
    expect(page.locator(".slot-log")).to_contain_text("Every entry of 'l2' lies at a bound.")


def test_a_part_of_the_curve_is_enlarged_by_dragging_and_all_is_shown_again_after_two_clicks(show, page, run):
    run.record(98)
    show(f"#/trials/{run.id}")
    expect_steps(page, 100)
    plot = chart(page).locator(".plot").first
    expect(plot).to_have_attribute("data-window", "1 100")
    over = plot.locator(".u-over")
    box = over.bounding_box()
    assert box is not None
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], height)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], height, steps=5)
    page.mouse.up()
    first, last = map(int, (plot.get_attribute("data-window") or "").split())
    assert 20 < first < 30
    assert 70 < last < 80
    run.record(1)
    expect_steps(page, 101)
    expect(plot).to_have_attribute("data-window", f"{first} {last}")  # a poll does not end the zoom
    over.dblclick()
    expect(plot).to_have_attribute("data-window", "1 101")


def test_one_step_cursor_runs_through_all_charts(show, page, run):
    run.record(98)
    show(f"#/trials/{run.id}")
    expect_steps(page, 100)
    box = chart(page).locator(".u-over").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    expect(chart(page).locator(".legend").first).to_contain_text("step 5")
    expect(page.locator(".slot-trust .measure").first).to_contain_text("at step 5")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_both_color_schemes(show, page, run, scheme):
    page.emulate_media(color_scheme=scheme)
    show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in background[4:-1].split(","))
    assert (brightness > 600) == (scheme == "light")


def test_100000_steps_are_a_few_kilobytes(show, page, server, submit):
    """14.6 MB were read for a curve of 1,000 points."""
    run = submit(n_steps=200_000)
    with server.sessions.begin() as session:
        filling.steps(session, run.id, 100_000)
    sizes: list[int] = []
    page.on(
        "requestfinished",
        lambda request: sizes.append(request.sizes()["responseBodySize"]) if "/api/" in request.url else None,
    )
    show(f"#/trials/{run.id}")
    expect(page.locator(".trial-head")).to_contain_text("100,000 steps of 200,000")
    expect(chart(page).locator("[data-steps]").first).to_be_visible()
    expect(page.locator("table.tensors tbody tr")).to_have_count(3)
    assert 0 < sum(sizes) < 300_000
    assert int(chart(page).locator("[data-steps]").first.get_attribute("data-steps") or 0) <= 1_000


def test_progress_has_a_rate_and_a_time_that_is_left(show, submit):
    run = submit(n_steps=1_000)
    for seconds in range(1, 6):
        run.record(10, seconds=float(100 * seconds))
    page = show(f"#/trials/{run.id}")
    expect(page.locator(".trial-head")).to_contain_text("0.1 steps/s")
    expect(page.locator(".trial-head")).to_contain_text("about 2 h 38 min left")
