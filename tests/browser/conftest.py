"""A real browser for the tests of the pages, and a page that fails its test on any error."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, expect, sync_playwright

from nestor.schemas import Scope
from testbed.server import Server
from testbed.services import Services
from tests.browser.gallery import Gallery
from tests.browser.gallery import gallery as running_gallery
from tests.server.conftest import Run, ok

NAMES = ("chromium", "chromium-browser", "google-chrome")  # as in .ci/programs
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
SPEC = {"problem": {"preset": {}}, "n_steps": 200}
PATIENT = 30_000  # milliseconds for what the page shows after its next read, on a loaded machine

# Chromium reports each answer that is no success. Which ones there may be is said by the tests that cause them.
ANSWERS = re.compile(r"Failed to load resource: (the server responded with a status of|net::ERR_)")


# Not for the whole session: while it is open, no other test of this process can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    installed = (shutil.which(name) for name in NAMES)
    path = os.environ.get("NESTOR_TEST_CHROMIUM") or next((path for path in installed if path), None)
    if path is None:
        pytest.fail(
            "No browser was found. Install Chromium (Debian: apt-get install chromium), set NESTOR_TEST_CHROMIUM to "
            "its path, or leave these tests out with --ignore=tests/browser."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context


@pytest.fixture
def new_page(context: BrowserContext) -> Iterator[Callable[[], Page]]:
    """Makes pages that fail the test on uncaught errors, errors in the console, and reports of the security policy."""
    errors: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and not ANSWERS.match(message.text):
            errors.append(message.text)

    def new_page() -> Page:
        page = context.new_page()
        page.set_default_timeout(PATIENT)
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        page.on("console", heard)
        return page

    expect.set_options(timeout=PATIENT)
    yield new_page
    assert errors == []


@pytest.fixture
def page(new_page: Callable[[], Page]) -> Page:
    return new_page()


@pytest.fixture
def token(server: Server) -> str:
    """Of a new user, who may write."""
    return server.new_token()


@pytest.fixture
def api(server: Server, token: str) -> Iterator[httpx.Client]:
    """The REST API for the user of the page."""
    with server.http(token) as http:
        yield http


@pytest.fixture
def study(api: httpx.Client) -> str:
    return ok(api.post("/studies", json={"name": "digits"}))["id"]


@pytest.fixture
def submit(server: Server, api: httpx.Client, study: str) -> Callable[..., Run]:
    """Submits a trial and claims it, as a worker does."""

    def submit(study_id: str = study, **changes: object) -> Run:
        return Run(server, UUID(ok(api.post(f"/studies/{study_id}/trials", json=SPEC | changes))["id"]))

    return submit


@pytest.fixture
def run(submit: Callable[..., Run]) -> Run:
    """A running trial with two steps, in the study "digits"."""
    run = submit()
    run.record(2)
    return run


@pytest.fixture
def show(page: Page, server: Server, token: str) -> Callable[..., Page]:
    """Logs in and shows a page: `show("#/")`, `show(f"#/trials/{run.id}")`."""

    def show(fragment: str = "#/", *, as_token: str = token) -> Page:
        log_in(page, server, as_token)
        page.goto(f"{server.url}/{fragment}")
        expect(page.locator("main h1").first).to_be_visible()
        return page

    return show


@pytest.fixture
def reader(server: Server, api: httpx.Client) -> str:
    """A token of the same user that only reads."""
    return server.new_token(ok(api.get("/me"))["user"], Scope.read)


class Hold:
    """Answers that the server gives only after `release`."""

    def __init__(self, page: Page, address: str) -> None:
        self.held: list[Route] = []
        self._holds = True
        page.route(address, self._take)

    def _take(self, route: Route) -> None:
        if self._holds:
            self.held.append(route)
        else:
            route.continue_()

    def release(self) -> None:
        self._holds = False
        for route in self.held:
            route.continue_()


def log_in(page: Page, server: Server, token: str) -> None:
    page.goto(f"{server.url}/#token={token}")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def expect_steps(page: Page, n: int) -> None:
    """The loss chart draws so many steps."""
    expect(page.locator(".slot-losses [data-steps]").first).to_have_attribute("data-steps", str(n))


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path:
    """The folder of all screenshots, which stays after the run: .pytest_cache/d/screenshots."""
    assert request.config.cache is not None
    return request.config.cache.mkdir("screenshots")


@pytest.fixture(scope="session")
def gallery(services: Services) -> Iterator[Gallery]:
    """Finished trials of each kind, by a real worker."""
    with running_gallery(services) as gallery:
        yield gallery
