"""A browser for the tests of pages: Debian's chromium, driven by Playwright.

Skipped without them.
"""

import shutil
from contextlib import contextmanager
from itertools import product

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser():
    """Chromium, started once a module."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@contextmanager
def open_page(browser, path, **options):
    """Open a page of a folder; at the end it must not have complained of anything or requested
    anything else.
    """
    page, trouble, address = browser.new_page(**options), [], path.as_uri()
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.on("request", lambda request: request.url == address or trouble.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert trouble == []


def check_page(browser, path):
    """A page must fit wide and narrow windows without scrolling sideways, and change with the dark
    mode.
    """
    colors = set()
    for width, scheme in product((1280, 390), ("light", "dark")):
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        with open_page(browser, path, **options) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
            colors.add((scheme, page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert len(colors) == 2 and len({color for _, color in colors}) == 2
