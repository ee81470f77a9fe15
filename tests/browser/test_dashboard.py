"""The dashboard as its users see it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Page, Request, expect

from nestor.schemas import State
from testbed.server import Server
from tests.server.conftest import Run

SPEC = {"problem": {"preset": {}}, "n_steps": 200}
CURVE = "#curve polyline.validation[data-steps]"


@pytest.fixture
def token(server: Server) -> str:
    return server.new_token()


@pytest.fixture
def api(server: Server, token: str):
    with server.http(token) as http:
        yield http


@pytest.fixture
def run(server: Server, api) -> Run:
    """A running trial with two steps, in the study "digits"."""
    study = api.post("/studies", json={"name": "digits"}).json()["id"]
    run = Run(server, UUID(api.post(f"/studies/{study}/trials", json=SPEC).json()["id"]))
    run.record(2)
    return run


def steps_drawn(page: Page, n: int) -> None:
    expect(page.locator(CURVE)).to_have_attribute("data-steps", str(n), timeout=30_000)


def test_a_link_logs_in_and_leaves_the_token_neither_in_the_address_nor_to_scripts(page, context, server, token, run):
    page.goto(f"{server.url}/#token={token}")

    expect(page.get_by_role("button", name="digits")).to_be_visible()
    assert token not in page.url
    assert page.evaluate("document.cookie") == ""
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.goto("about:blank")
    page.go_back()
    assert token not in page.url
    expect(page.get_by_role("button", name="digits")).to_be_visible()


def test_without_a_token_the_page_asks_for_one_and_says_when_it_is_wrong(page, server, token, run):
    page.goto(server.url)
    page.get_by_label("Token").fill("nst_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="this token is unknown")).to_be_visible()

    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="digits")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()


def test_the_curve_grows_as_steps_are_recorded_and_only_new_steps_are_fetched(page, server, token, run):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/steps?" in request.url else None)
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").press("Enter")
    steps_drawn(page, 2)
    expect(page.get_by_text("Step 2 of 200")).to_be_visible()

    run.record(30)
    steps_drawn(page, 32)
    run.record(5)
    steps_drawn(page, 37)
    points = page.locator(CURVE).get_attribute("points")
    assert points is not None
    assert len(points.split()) == 37
    assert [url.split("after=")[1].split("&")[0] for url in asked] == ["0", "2", "32"]
    expect(page.locator("#numbers")).to_contain_text("accuracy0.5")


def test_nothing_is_fetched_twice_of_a_trial_that_does_not_move(page, server, token, run):
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    steps_drawn(page, 2)
    with page.expect_response(lambda response: response.url.endswith(f"/trials/{run.id}")) as answer:
        pass
    assert answer.value.status == 304


def test_the_stop_button_asks_the_trial_to_stop_and_the_page_shows_its_end(page, server, token, run, api):
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    page.get_by_role("button", name="Stop and keep the result").click()
    expect(page.locator("#trial-state")).to_have_text("running, stopping")
    assert api.get(run.path).json()["desired"] == "stop"

    run.finish()
    expect(page.locator("#trial-state")).to_have_text("complete", timeout=30_000)
    expect(page.get_by_role("button", name="Stop and keep the result")).to_be_disabled()


def test_canceling_is_confirmed_first(page, server, token, run, api):
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel").click()
    assert api.get(run.path).json()["desired"] == "run"
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#trial-state")).to_have_text("running, canceling")


def test_a_trial_has_buttons_for_what_is_allowed_and_is_retried_and_extended(page, server, token, run, api):
    def buttons(*names: str) -> None:
        enabled = page.locator("[data-action]:enabled")
        expect(enabled).to_have_text(list(names), timeout=40_000)  # the page looks every ten seconds
        shown = {button.get_attribute("data-action") for button in enabled.all()}
        assert shown == set(api.get(run.path).json()["allowed_actions"])

    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    buttons("Pause", "Stop and keep the result", "Prune", "Cancel")
    page.get_by_role("button", name="Pause").click()
    buttons("Resume", "Stop and keep the result", "Prune", "Cancel")
    run.finish(State.failed, {"code": "diverged", "detail": "The loss is not finite at step 3. Lower the rate."})
    buttons("Retry")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#trial-state")).to_have_text("queued", timeout=30_000)
    expect(page.locator("#trial-error")).to_be_hidden()
    run.claim()
    run.finish()
    buttons("Extend")
    page.get_by_label("steps").fill("7")
    page.get_by_role("button", name="Extend").click()
    expect(page.locator("#trial-state")).to_have_text("queued", timeout=30_000)
    assert api.get(run.path).json()["n_steps"] == api.get(run.path).json()["step"] + 7
    buttons("Pause", "Stop and keep the result", "Prune", "Cancel")


def test_a_failed_trial_shows_its_error(page, server, token, run):
    run.finish(State.failed, {"code": "diverged", "detail": "The loss is not finite at step 3. Lower the rate."})
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    expect(page.get_by_text("The loss is not finite at step 3. Lower the rate.")).to_be_visible()


def test_held_out_examples_have_a_curve_and_decide_what_is_best(page, server, token, run):
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    steps_drawn(page, 2)
    assert page.locator("#curve .held-out").count() == 0
    run.record(3, held_out=0.125)
    steps_drawn(page, 5)
    assert page.locator("#curve polyline.held-out[data-steps]").count() == 1
    expect(page.locator("#numbers")).to_contain_text("Best held-out loss0.125 at step 3")


def test_rolled_back_steps_disappear_from_the_curve(page, server, token, run):
    run.checkpoint()
    run.record(10)
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    steps_drawn(page, 12)
    from nestor_server.scheduling import leases

    with server.sessions.begin() as session:
        leases.requeue(session, run.lease, "drained", paid_from="preemptions")
    run.claim()
    run.number = 2
    run.record(1)
    steps_drawn(page, 3)


def test_what_users_write_is_text_and_never_markup(page, server, token, api):
    api.post("/studies", json={"name": "<img src=x onerror=alert(1)><b>bold</b>"})
    page.goto(f"{server.url}/#token={token}")
    expect(page.get_by_role("button", name="<img src=x onerror=alert(1)><b>bold</b>")).to_be_visible()
    assert page.locator("main img, main b").count() == 0


def test_an_outage_of_the_server_and_its_end_are_shown(page, server, token, run):
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    steps_drawn(page, 2)

    def away(route: Any, request: Request) -> None:
        route.abort()

    page.route("**/api/**", away)
    stale = page.get_by_role("alert").filter(has_text="Stale since")
    expect(stale).to_be_visible(timeout=30_000)
    steps_drawn(page, 2)  # what is known stays
    run.record(1)
    page.unroute("**/api/**")
    expect(stale).to_be_hidden(timeout=30_000)
    steps_drawn(page, 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_both_color_schemes(page, server, token, run, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{server.url}/#token={token}")
    page.get_by_role("button", name="digits").click()
    steps_drawn(page, 2)
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in background[4:-1].split(","))
    assert (brightness > 600) == (scheme == "light")
