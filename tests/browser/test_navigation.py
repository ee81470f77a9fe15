"""Each view has an address and a title, and an action belongs to the trial that is shown."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from playwright.sync_api import expect

from testbed.server import wait_for
from tests.browser.conftest import SPEC, Hold, expect_steps
from tests.server.conftest import Run, ok


@pytest.fixture
def paused(server, api) -> Run:
    """A paused trial in another study."""
    study = ok(api.post("/studies", json={"name": "paused study"}))["id"]
    return Run(server, UUID(ok(api.post(f"/studies/{study}/trials", json=SPEC))["id"]))


def heading(page):
    return page.get_by_role("heading", level=1)


def test_back_and_forward_go_through_the_pages_that_were_seen(show, study, run):
    """Back from a trial left the application."""
    page = show("#/")
    page.get_by_role("link", name="digits", exact=True).first.click()
    expect(heading(page)).to_have_text("digits")
    page.get_by_role("link", name=re.compile("^(Trial )?0$")).first.click()
    expect(heading(page)).to_have_text("digits · trial 0")
    page.go_back()
    expect(heading(page)).to_have_text("digits")
    page.go_back()
    expect(heading(page)).to_have_text("Studies")
    page.go_forward()
    page.go_forward()
    expect(heading(page)).to_have_text("digits · trial 0")
    page.reload()
    expect(heading(page)).to_have_text("digits · trial 0")


def test_an_address_shows_the_same_trial_to_a_colleague_tomorrow(show, new_page, submit, run):
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    submit().record(5)  # a newer trial of the study
    other = new_page()
    other.goto(page.url)
    expect(heading(other)).to_have_text("digits · trial 0")
    expect_steps(other, 2)


def test_an_address_of_an_earlier_version_shows_its_trial(show, study, run):
    page = show(f"#study={study}&trial={run.id}")
    expect(heading(page)).to_have_text("digits · trial 0")


def test_an_address_that_leads_nowhere_says_so(show):
    page = show("#/nowhere")
    expect(heading(page)).to_have_text("There is no such page")
    page.get_by_role("link", name="All studies").click()
    expect(heading(page)).to_have_text("Studies")


def test_the_title_of_the_tab_says_what_it_shows(show, run):
    page = show(f"#/trials/{run.id}")
    expect(page).to_have_title("1 % · trial 0 · digits · Nestor")
    run.record(98)
    expect(page).to_have_title("50 % · trial 0 · digits · Nestor")
    run.finish()
    expect(page).to_have_title("complete · trial 0 · digits · Nestor")


def test_an_action_reaches_the_trial_that_is_shown_and_no_other(show, api, run, paused):
    """The panel of one trial stood under the heading of another while its steps were read, with live buttons."""
    page = show(f"#/trials/{paused.id}")
    expect(page.locator("[data-action=cancel]")).to_be_visible()
    hold = Hold(page, f"**/trials/{run.id}*")
    page.goto(page.url.split("#")[0] + f"#/trials/{run.id}")
    # Nothing of the trial before is left, although nothing of the next one is known.
    expect(page.locator("[data-action]")).to_have_count(0)
    expect(page.get_by_text("paused study")).to_have_count(0)
    hold.release()
    page.locator("[data-action=cancel]").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Cancel trial 0 of digits?")
    dialog.get_by_role("button", name="Cancel trial 0").click()
    expect(page.locator(".state").first).to_have_text("running, being canceled")
    assert api.get(run.path).json()["desired"] == "cancel"
    assert api.get(paused.path).json()["desired"] == "run"


def test_an_open_confirmation_belongs_to_the_trial_that_it_names_even_if_the_page_changes(show, api, run, paused):
    page = show(f"#/trials/{paused.id}")
    page.locator("[data-action=cancel]").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cancel trial 0 of paused study?")
    page.evaluate(f"location.hash = '#/trials/{run.id}'")
    expect(heading(page)).to_have_text("digits · trial 0")
    page.get_by_role("dialog").get_by_role("button", name="Cancel trial 0").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    wait_for(lambda: api.get(paused.path).json()["desired"] == "cancel", "the action")
    assert api.get(run.path).json()["desired"] == "run"


def test_the_problem_of_an_action_does_not_stay_over_other_pages(show, run, paused):
    page = show(f"#/trials/{run.id}")
    page.route("**/pause", lambda route: route.fulfill(status=409, json={"detail": "It is not the time for that."}))
    page.locator("[data-action=pause]").click()
    expect(page.get_by_role("alert").filter(has_text="It is not the time for that.")).to_be_visible()
    page.goto(page.url.split("#")[0] + f"#/trials/{paused.id}")
    expect(heading(page)).to_have_text("paused study · trial 0")
    expect(page.get_by_text("It is not the time for that.")).to_have_count(0)


def test_the_keyboard_alone_is_enough(show, run):
    page = show("#/")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search studies")).to_be_focused()
    page.keyboard.type("digits")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("q=digits"))
    expect(page.get_by_role("link", name="digits", exact=True)).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("checkbox", name="Select digits")).to_be_checked()
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("digits")
