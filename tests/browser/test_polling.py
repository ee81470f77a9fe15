"""The page stays alive, whatever answers come, and says how old it is."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.browser.conftest import Hold, expect_steps

PROBLEM = {"type": "about:blank", "title": "Problem", "detail": "Something is wrong.", "code": "problem"}


def stale(page: Page):
    return page.locator(".status[data-kind=stale]")


def live(page: Page):
    return page.locator(".status[data-kind=live]")


BROKEN = {
    "no connection": None,
    "403": {"status": 403, "json": PROBLEM},
    "404 of a route": {"status": 404, "json": PROBLEM},
    "429": {"status": 429, "json": PROBLEM, "headers": {"Retry-After": "1"}},
    "500": {"status": 500, "body": "oops"},
    "503": {"status": 503, "json": PROBLEM},
    "a page of HTML": {"status": 200, "body": "<h1>Welcome to our hotel</h1>", "content_type": "text/html"},
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_leaves_what_is_shown_and_reading_goes_on(show, run, answer: dict[str, Any] | None):
    """Any answer but 304, 401 and 5xx stopped the polling for good, without a word."""
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)

    def broken(route: Route) -> None:
        route.abort() if answer is None else route.fulfill(**answer)

    page.route("**/api/v1/trials/*/steps*", broken)
    run.record(1)
    expect(stale(page)).to_contain_text("stale since")
    expect_steps(page, 2)  # what is known stays
    page.unroute("**/api/v1/trials/*/steps*")
    page.get_by_role("button", name="try now").click()
    expect(live(page)).to_be_visible()
    expect_steps(page, 3)


def test_a_restart_of_the_server_is_survived(show, server, run):
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    server.stop()
    try:
        expect(stale(page)).to_be_visible()
    finally:
        server.start()
    run.record(1)
    expect(live(page)).to_be_visible()
    expect_steps(page, 3)


def test_a_page_that_opens_during_an_outage_appears_when_it_is_over(page, server, token, study):
    away = True

    def answer(route: Route) -> None:
        route.abort() if away else route.continue_()

    page.route("**/api/**", answer)
    page.goto(f"{server.url}/#token={token}")
    expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
    away = False
    expect(page.get_by_role("link", name="digits")).to_be_visible()


def test_a_trial_that_is_deleted_while_it_is_shown_is_said_to_be_gone_and_one_that_comes_back_is_shown(
    show, api, study, run
):
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    api.delete(f"/studies/{study}")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such trial")
    expect(live(page)).to_be_visible()
    api.post(f"/studies/{study}/restore")
    expect(page.get_by_role("heading", level=1)).to_have_text("digits · trial 0")


def test_slow_answers_do_not_pile_up(show, run):
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    hold = Hold(page, "**/steps?*")
    for _ in range(3):  # polls that would be due
        run.record(1)
        page.wait_for_timeout(2_500)
    assert len(hold.held) == 1
    hold.release()
    expect_steps(page, 5)


def test_a_hidden_tab_asks_for_nothing_and_one_that_returns_asks_at_once(show, page, run):
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true })")
    show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    turn = "(hidden) => { window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(turn, True)
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(6_000)  # three polls of a page that is visible
    assert asked == []
    run.record(1)
    page.evaluate(turn, False)
    expect_steps(page, 3)


def test_only_new_steps_are_read(show, page, run):
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/steps?" in request.url and "max_points" in request.url:
            asked.append(request.url.split("after=")[1].split("&")[0])

    page.on("request", note)
    show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    run.record(30)
    expect_steps(page, 32)
    run.record(5)
    expect_steps(page, 37)
    assert asked == ["0", "2", "32"]


def test_nothing_is_sent_twice_of_a_trial_that_does_not_move(show, run):
    page = show(f"#/trials/{run.id}")
    expect_steps(page, 2)
    with page.expect_response(lambda response: response.url.endswith(f"/trials/{run.id}")) as answer:
        pass
    assert answer.value.status == 304


def test_the_page_says_how_old_it_is(show, run):
    page = show(f"#/trials/{run.id}")
    expect(live(page)).to_contain_text("live ·")
    page.route("**/api/**", lambda route: route.abort())
    expect(stale(page)).to_contain_text("stale since")
    expect(stale(page).locator("[title]")).to_have_attribute("title", "The server does not answer.")
