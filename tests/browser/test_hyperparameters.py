"""What moves: tensors, distributions, single entries and pictures of real trials."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import log_in
from tests.browser.gallery import Gallery


@pytest.fixture
def look(page: Page, gallery: Gallery) -> Callable[[str], Page]:
    """Shows a trial of the gallery."""

    def look(name: str, query: str = "") -> Page:
        log_in(page, gallery.server, gallery.token)
        page.goto(f"{gallery.server.url}/{gallery.address(name)}{query}")
        expect(page.locator("table.tensors tbody tr").first).to_be_visible()
        return page

    return look


def test_every_tensor_has_a_row_that_says_how_it_moved(look):
    """No hyperparameter was shown anywhere."""
    page = look("million decays")
    rows = page.locator("table.tensors tbody tr")
    expect(rows).to_have_count(4)
    expect(page.locator(".slot-tensors header")).to_contain_text("1,011,010 entries in 4 tensors")
    weight = rows.filter(has_text="l2.0.weight")
    expect(weight).to_contain_text("1,000,000")
    expect(weight.get_by_role("img", name="Quantiles of l2.0.weight")).to_be_visible()
    shares = [cell.inner_text() for cell in page.locator("table.tensors td:last-child").all()]
    numbers = [
        float(share.replace("< 1 %", "0.5 %").replace("> 99 %", "99.5 %").removesuffix(" %")) for share in shares
    ]
    assert numbers == sorted(numbers, reverse=True)
    expect(page.locator(".tile").filter(has_text="Did anything move?").locator(".answer")).to_contain_text("%")


def test_a_tensor_that_is_chosen_is_in_the_address_and_drawn_in_all_panels(look):
    page = look("million decays")
    page.get_by_role("button", name="l2.2.bias").click()
    expect(page).to_have_url(page.url.split("?")[0] + "?tensor=l2.2.bias")
    expect(page.locator(".slot-tensor")).to_contain_text("l2.2.bias")
    page.reload()
    expect(page.locator(".slot-tensor")).to_contain_text("l2.2.bias")
    page.get_by_role("button", name="l2.0.weight").click()
    expect(page.locator(".slot-entries")).to_contain_text("Entries of l2.0.weight")
    expect(page.locator(".slot-pictures img").first).to_be_visible()


def test_entries_that_stand_out_have_names_and_values(look):
    page = look("million decays", "?tensor=l2.0.weight")
    entries = page.locator(".slot-entries .entry")
    expect(entries).to_have_count(12)
    expect(entries.first).to_contain_text("0.weight, row")
    expect(entries.first).to_contain_text("−6 →")
    page.get_by_role("button", name="lowest").click()
    expect(page.get_by_role("button", name="lowest")).to_have_attribute("aria-pressed", "true")
    expect(entries).to_have_count(12)


def test_example_weights_stand_beside_the_example_and_its_label(look):
    page = look("example weights", "?tensor=example_weights")
    entry = page.locator(".slot-entries .entry").first
    expect(entry).to_contain_text("example")
    expect(entry).to_contain_text("label")
    picture = entry.locator("img")
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") >= 8


def test_distilled_examples_are_pictures_at_each_step(look):
    page = look("distilled", "?tensor=distilled_data")
    pictures = page.locator(".slot-pictures img")
    expect(pictures).to_have_count(2)  # the start, and the newest
    before = pictures.nth(1).get_attribute("src")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(pictures.nth(1)).not_to_have_attribute("src", before or "")
    for picture in pictures.all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 8


def test_few_entries_are_named_lines(look):
    page = look("example weights", "?tensor=l2")
    panel = page.locator(".slot-tensor")
    expect(panel).to_contain_text("1.weight")
    expect(page.locator(".slot-entries")).to_be_empty()


def test_a_trial_whose_solves_diverged_is_red_and_says_what_to_do(look):
    page = look("diverges")
    tile = page.locator(".tile").filter(has_text="Can I believe")
    expect(tile.locator(".answer")).to_have_text("No")
    expect(tile).to_contain_text("Use GaussNewton()")
    expect(page.locator(".tile").filter(has_text="Did anything move?").locator(".answer")).to_have_text("0 %")


def test_the_specification_names_what_was_set_and_hides_the_defaults(look):
    page = look("diverges")
    specification = page.get_by_role("region", name="Specification")
    expect(specification.get_by_text("response.solver.alpha", exact=True)).to_be_visible()
    expect(specification.get_by_text("inner_steps", exact=True)).to_be_hidden()
    specification.get_by_text("with their defaults").click()
    expect(specification.get_by_text("inner_steps", exact=True)).to_be_visible()


def test_downloads_are_files(look):
    page = look("distilled")
    for name in ("steps (CSV)", "hyperparameters (safetensors)", "best weights (safetensors)"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert download.value.path().stat().st_size > 100
