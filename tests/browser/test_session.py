"""Who may see what: logging in and out, read-only tokens, and several users."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from nestor.schemas import Scope
from tests.browser.conftest import log_in
from tests.server.conftest import ok, problem


def test_a_link_logs_in_and_leaves_the_token_neither_in_the_address_nor_to_scripts(page, context, server, token, study):
    log_in(page, server, token)
    expect(page.get_by_role("link", name="digits")).to_be_visible()
    assert token not in page.url
    assert page.evaluate("document.cookie") == ""
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.goto("about:blank")
    page.go_back()
    assert token not in page.url
    expect(page.get_by_role("link", name="digits")).to_be_visible()


def test_a_token_in_the_query_is_used_and_disappears_from_the_address(page, server, token, study):
    """A natural mistake: it stayed in the address bar and did nothing."""
    page.goto(f"{server.url}/?token={token}")
    expect(page.get_by_role("link", name="digits")).to_be_visible()
    assert token not in page.url


def test_without_a_token_the_page_asks_for_one_and_says_when_it_is_wrong(page, server, token, study):
    page.goto(server.url)
    page.get_by_label("Token").fill("nst_wrong")
    page.keyboard.press("Enter")
    problem = page.get_by_role("alert").filter(has_text="does not know this token")
    expect(problem).to_be_visible()
    expect(problem).not_to_contain_text("Authorization")  # words of a form, not of a header

    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="digits")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()


def test_a_link_to_a_trial_is_kept_through_the_login(page, server, token, run):
    page.goto(f"{server.url}/#/trials/{run.id}")
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("digits · trial 0")


def test_a_session_that_ends_asks_for_a_token_and_shows_nothing_anymore(show, run):
    page = show(f"#/trials/{run.id}")
    page.context.clear_cookies()
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    expect(page.get_by_text("digits")).to_have_count(0)


@pytest.mark.parametrize("route", ["#/", "#/studies/{study}", "#/trials/{trial}", "#/workers"])
def test_who_only_reads_sees_no_button_that_changes_something(show, reader, study, run, route):
    page = show(route.format(study=study, trial=run.id), as_token=reader)
    expect(page.locator(".user .tag")).to_have_text("read")
    expect(page.locator(".status[data-kind=live]")).to_be_visible()
    buttons = {text.strip() for text in page.locator("main button:visible").all_inner_texts()}
    changes = {"Pause", "Stop", "Prune", "Cancel", "Extend", "Retry", "Resume", "Confirm", "Edit", "Archive", "Drain"}
    assert not {button for button in buttons if any(button.startswith(change) for change in changes)}


def test_the_trial_of_another_user_is_not_found(show, server, run):
    page = show(f"#/trials/{run.id}", as_token=server.new_token())
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such trial")
    expect(page.get_by_text("digits")).to_have_count(0)


@pytest.mark.parametrize("logs_out", [True, False])
def test_two_users_in_one_browser_never_see_each_others_studies(page, server, token, study, logs_out):
    log_in(page, server, token)
    expect(page.get_by_role("link", name="digits")).to_be_visible()
    if logs_out:
        page.get_by_role("button", name="Log out").click()
    other = server.new_token()
    with server.http(other) as http:
        ok(http.post("/studies", json={"name": "theirs"}))
    log_in(page, server, other)
    expect(page.get_by_role("link", name="theirs")).to_be_visible()
    expect(page.get_by_role("link", name="digits")).to_have_count(0)


def test_tokens_are_listed_made_and_revoked(show, server, page):
    user = "somebody with tokens"
    own, other = server.new_token(user, Scope.admin), server.new_token(user, Scope.write)
    page = show("#/", as_token=own)
    page.get_by_role("link", name=user).click()
    rows = page.get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("this session")
    expect(rows.nth(1)).to_contain_text("admin")

    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Scope").select_option("read")
    page.get_by_label("Days").fill("")
    page.get_by_role("button", name="Create a token").click()
    expect(rows.nth(3)).to_contain_text("laptop")
    expect(rows.nth(3)).to_contain_text("never")
    made = page.get_by_role("status").locator("code").inner_text()
    with server.http(made) as http:
        assert ok(http.get("/me"))["scope"] == "read"

    rows.nth(2).get_by_role("button").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke it").click()
    expect(rows).to_have_count(3)
    with server.http(other) as http:
        problem(http.get("/me"), 401, "token-revoked")

    rows.nth(1).get_by_role("button").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke it").click()
    expect(page.get_by_text("Your session has ended.")).to_be_visible()


def test_a_token_that_only_reads_ends_itself_and_no_other(show, server, page):
    user = "somebody who reads"
    server.new_token(user)
    page = show("#/tokens", as_token=server.new_token(user, Scope.read))
    rows = page.get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.get_by_role("button")).to_have_count(1)
    expect(rows.nth(2).get_by_role("button", name="Revoke")).to_be_visible()
    expect(page.get_by_role("button", name="Create a token")).to_have_count(0)
