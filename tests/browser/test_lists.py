"""Lists of studies and trials: all are reachable, newest first, and each row says what goes on."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect

from benchmarks.server import filling
from nestor.schemas import State
from tests.browser.conftest import SPEC, log_in
from tests.server.conftest import Run, ok

MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"


def rows(page: Page):
    return page.locator("main table").first.locator("tbody tr")


def show_more_until(page: Page, n: int) -> None:
    while rows(page).count() < n:
        before = rows(page).count()
        page.get_by_role("button", name=re.compile("more", re.IGNORECASE)).click()
        expect(rows(page)).not_to_have_count(before)
    expect(rows(page)).to_have_count(n)


def test_all_of_1200_trials_are_reachable_newest_first(show, server, api, study, run):
    """Of 1,200 trials, the 1,000 oldest were listed, and "Trial 999" was opened as the newest."""
    with server.sessions.begin() as session:
        filling.trials(session, run.id, 1_199, study=UUID(study), state=State.complete, first=1)
    page = show(f"#/studies/{study}")
    expect(rows(page).first).to_contain_text("1199")
    show_more_until(page, 1_200)
    expect(rows(page).last.get_by_role("link", name=re.compile(r"^(Trial )?0$"))).to_have_count(1)
    page.wait_for_timeout(3_000)  # a poll does not lose what was opened
    expect(rows(page)).to_have_count(1_200)


def test_all_of_250_studies_are_reachable(show, server, api, study):
    with server.sessions.begin() as session:
        filling.studies(session, UUID(study), 249)
    page = show("#/")
    show_more_until(page, 250)
    expect(page.get_by_role("link", name="digits", exact=True)).to_be_visible()


def test_a_study_is_found_by_its_name_its_tag_and_the_state_of_its_trials(show, api, submit):
    other = ok(api.post("/studies", json={"name": "other", "tags": ["soak"]}))["id"]
    run = submit(other)
    run.finish(State.failed, {"code": "diverged", "detail": "It diverged."})
    submit().record(1)
    page = show("#/?q=oth")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("other")
    page.goto(page.url.split("#")[0] + "#/?state=failed")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("other")
    page.goto(page.url.split("#")[0] + "#/?tag=soak")
    expect(rows(page)).to_have_count(1)
    page.goto(page.url.split("#")[0] + "#/")
    expect(rows(page)).to_have_count(2)


def test_a_running_study_shows_its_progress_and_its_best_value(show, run):
    page = show("#/")
    expect(rows(page).first).to_contain_text("running")
    expect(rows(page).first).to_contain_text("0.5")
    run.record(98)
    expect(rows(page).first).to_contain_text("0.01")


@pytest.mark.parametrize("what", ["name", "tag", "note", "attribute", "error"])
def test_what_users_write_is_text_and_never_markup(show, server, api, what):
    new = {"name": MARKUP} if what == "name" else {"name": "study"}
    study = ok(api.post("/studies", json=new))["id"]
    changes = {"tag": {"tags": [MARKUP]}, "note": {"note": MARKUP}, "attribute": {"user_attrs": {MARKUP: MARKUP}}}
    if what in changes:
        ok(api.patch(f"/studies/{study}", json=changes[what]))
    trial = ok(api.post(f"/studies/{study}/trials", json=SPEC))["id"]
    if what in changes:
        ok(api.patch(f"/trials/{trial}", json=changes[what]))
    run = Run(server, UUID(trial))
    run.record(2)
    run.finish(*([State.failed, {"code": "diverged", "detail": MARKUP}] if what == "error" else []))
    for fragment in ("#/", f"#/studies/{study}", f"#/trials/{trial}", f"#/studies/{study}/compare?trials=0"):
        page = show(fragment)
        expect(page.locator(".status[data-kind=live]")).to_be_visible()
        assert page.locator("main img[src=x]").count() == 0
        assert page.locator("main b", has_text="bold").count() == 0
    if what in ("name", "note", "attribute", "error"):
        page = show(f"#/trials/{trial}")
        expect(page.get_by_text("<b>bold</b>").first).to_be_visible()


def test_the_note_and_the_tags_of_a_study_are_edited_in_place(show, api, study):
    page = show(f"#/studies/{study}")
    page.get_by_role("button", name="Add a note").click()
    page.get_by_role("textbox", name="Note").fill("Half of the labels are wrong.")
    page.get_by_role("button", name="Save the note").click()
    expect(page.get_by_text("Half of the labels are wrong.")).to_be_visible()
    assert api.get(f"/studies/{study}").json()["note"] == "Half of the labels are wrong."


def test_a_study_is_archived_after_a_question_that_names_it_and_can_be_restored(show, api, study):
    page = show("#/")
    page.get_by_role("checkbox", name=re.compile("digits")).check()
    page.get_by_role("button", name=re.compile("^Archive")).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("digits")
    dialog.get_by_role("button", name=re.compile("^Archive")).click()
    expect(page.get_by_role("link", name="digits", exact=True)).to_have_count(0)
    page.goto(page.url.split("#")[0] + "#/?deleted=1")
    page.get_by_role("button", name=re.compile("^Restore")).click()
    page.goto(page.url.split("#")[0] + "#/")
    expect(page.get_by_role("link", name="digits", exact=True)).to_be_visible()
    assert api.get(f"/studies/{study}").status_code == 200


def test_trials_that_are_chosen_are_compared(show, api, study, submit):
    for rate in (0.1, 0.2):
        run = submit(inner={"optimizer": "adam", "lr": rate})
        run.record(5)
        run.finish()
    page = show(f"#/studies/{study}")
    for number in (0, 1):
        page.get_by_role("checkbox", name=re.compile(rf"\b{number}\b")).check()
    page.get_by_role("link", name=re.compile("Compare")).or_(
        page.get_by_role("button", name=re.compile("Compare"))
    ).click()
    expect(page).to_have_url(re.compile(r"compare\?trials="))
    expect(page.get_by_role("row").filter(has_text="inner.lr")).to_contain_text("0.1")
    expect(page.get_by_role("row").filter(has_text="inner.lr")).to_contain_text("0.2")


def test_an_empty_list_says_how_to_begin_with_the_address_of_this_server(show, server):
    page = show("#/")
    expect(page.get_by_text(server.url).first).to_be_visible()
    expect(page.locator("main pre").first).to_contain_text("nestor.create_study")
    expect(page.locator("main pre").last).to_contain_text("curl")


def test_workers_are_listed_with_their_device(page, gallery):
    log_in(page, gallery.server, gallery.token)
    page.goto(f"{gallery.server.url}/#/workers")
    expect(page.get_by_role("heading", level=1)).to_have_text("Workers")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("cpu")
