"""Every page in each variant: accessible, no wider than its window, and a screenshot of it for people to look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from testbed.node import tools
from tests.browser.conftest import log_in
from tests.browser.gallery import HOSTILE, KINDS, Gallery

VARIANTS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
PAGES = (
    "login",
    "studies",
    "study",
    "compare",
    "workers",
    "tokens",
    "empty",
    "missing",
    *(f"trial, {name}" for name in KINDS),
)


@pytest.fixture(scope="session")
def axe() -> str:
    return (tools() / "axe-core" / "axe.min.js").read_text()


def fragment(gallery: Gallery, name: str) -> str:
    kind, _, trial = name.partition(", ")
    study = gallery.studies["example weights"]
    return {
        "studies": "#/",
        "study": f"#/studies/{study}",
        "compare": f"#/studies/{study}/compare?trials=0",
        "workers": "#/workers",
        "tokens": "#/tokens",
        "empty": "#/?q=nothing+has+this+name",
        "missing": "#/nowhere",
        "trial": gallery.address(trial) if trial else "",
        "login": "",
    }[kind]


def scroll_through(page: Page) -> None:
    """Panels are made when they come into view."""
    for _ in range(12):
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(60)
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator(".skeleton")).to_have_count(0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits_its_window(
    browser: Browser, gallery: Gallery, axe: str, screenshots: Path, name: str, variant: str
):
    errors: list[str] = []
    with browser.new_context(**VARIANTS[variant]) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        if name == "login":
            page.goto(gallery.server.url)
            expect(page.get_by_label("Token")).to_be_visible()
            errors.clear()  # GET /me says 401, as it has to
        else:
            log_in(page, gallery.server, gallery.token)
            page.goto(f"{gallery.server.url}/{fragment(gallery, name)}")
            expect(page.locator("main h1").first).to_be_visible()
            expect(page.locator(".status[data-kind=loading]")).to_have_count(0)
            scroll_through(page)
        picture = f"{name}, {variant}".replace(HOSTILE, "hostile").replace(", ", "-").replace(" ", "-")
        page.screenshot(path=screenshots / f"{picture}.png", full_page=True)

        assert page.locator("main").count() == 1
        assert page.locator("h1").count() == 1
        assert page.locator("main img[src=x], main u, main i").count() == 0  # what users write is text
        assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
        page.evaluate(axe)  # by the debugger, which the policy of the page does not bind
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        violations = {
            f"{one['id']}: {one['help']}": [node["html"][:200] for node in one["nodes"][:3]]
            for one in found["violations"]
        }
        assert violations == {}
        assert errors == []
