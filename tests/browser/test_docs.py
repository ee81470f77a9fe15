"""/docs as a reader uses it: the reference, authorization, and requests that are sent from it.

The fixture `page` fails on every violation of the content security policy.
"""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from testbed.contract import document
from testbed.server import Server


@pytest.fixture
def token(server: Server) -> str:
    return server.new_token()


def open_docs(page: Page, address: str) -> None:
    page.goto(f"{address}/docs")
    expect(page.locator(".opblock").first).to_be_visible(timeout=30_000)


def authorize(page: Page, token: str) -> None:
    page.get_by_role("button", name="Authorize").first.click()
    page.locator("#auth-bearer-value").fill(token)
    page.get_by_role("button", name="Apply credentials").first.click()
    page.get_by_role("button", name="Close").first.click()


def send(page: Page, operation: str) -> str:
    """Send a request from the page, and return the status that it shows."""
    block = page.locator(f"[id$='-{operation}']")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Execute").click()
    status = block.locator(".live-responses-table .response-col_status").last
    expect(status).to_have_text(re.compile(r"\d{3}"), timeout=30_000)
    return status.inner_text().split()[0]


def test_the_reference_has_every_operation_and_explains_the_api(page: Page, server: Server):
    open_docs(page, server.url)
    operations = sum(len(operations) for operations in document()["paths"].values())
    expect(page.locator(".opblock")).to_have_count(operations)
    expect(page.get_by_role("heading", name="Authentication")).to_be_visible()
    page.locator("#operations-trials-create_trial .opblock-summary-control").click()
    body = page.locator("#operations-trials-create_trial .opblock-section-request-body")
    expect(body.locator("textarea")).to_have_value(re.compile('"n_steps": 30'))


def test_a_reader_authorizes_with_a_token_and_tries_a_request(page: Page, server: Server, token: str):
    open_docs(page, server.url)
    assert send(page, "get_me") == "401"
    authorize(page, token)
    assert send(page, "list_studies") == "200"
    assert send(page, "create_study") == "201"


def test_a_session_of_the_dashboard_is_enough(page: Page, server: Server, token: str):
    page.goto(f"{server.url}/#token={token}")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    open_docs(page, server.url)
    assert send(page, "list_studies") == "200"
    assert send(page, "create_study") == "201"


def test_it_works_under_a_path_prefix(page: Page, server: Server, token: str):
    """A proxy in front of the server takes the prefix away."""
    asked: list[str] = []

    def forward(route: Route) -> None:
        path = route.request.url.removeprefix(f"{server.url}/nestor")
        asked.append(path)
        response = httpx.request(
            route.request.method, server.url + path, headers=route.request.headers, trust_env=False, timeout=60
        )
        headers = {name: value for name, value in response.headers.items() if name != "content-encoding"}
        route.fulfill(status=response.status_code, headers=headers, body=response.content)

    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if "/nestor/" not in request.url else None)
    page.route(f"{server.url}/nestor/**", forward)
    page.goto(f"{server.url}/nestor/docs/")
    expect(page.locator(".opblock").first).to_be_visible(timeout=30_000)
    authorize(page, token)
    assert send(page, "get_me") == "200"
    assert "/openapi.json" in asked
    assert "/api/v1/me" in asked
    assert outside == []
    redirect = httpx.get(f"{server.url}/docs", trust_env=False)
    assert redirect.headers["Location"] == "docs/"  # relative, so the browser keeps the prefix
