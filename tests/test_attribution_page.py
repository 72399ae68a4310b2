"""attributions.html in a real browser: Debian's chromium, driven by Playwright."""

import shutil

import pytest
from test_render_attribution import document, write_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")
HOSTILE = '<script>alert(1)</script> & "quotes"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty documents: one hostile, one wrong, one cut, one without label, the rest alike."""
    many = [document(f"1601.{number:05d}", relative_error=1e-7 * number) for number in range(56)]
    for line in many:
        line |= {"prediction": "math.DG", "probabilities": {"math.DG": 0.9, "math.AG": 0.06, "math.SG": 0.04}}
    hostile = document("hostile", text=HOSTILE, words=["<script>alert(1)</script>"], word_attributions=[0.5])
    hostile |= {"word_spans": [[0, 25]], "tokens": ["[CLS]", "<script>", "alert(1)", "</script>", "[SEP]"]}
    hostile |= {"word_ids": [None, 0, 0, 0, None], "token_spans": None, "attributions": [0.0, 0.2, 0.2, 0.1, 0.0]}
    special = [document("wrong"), document("cut", truncated=True, relative_error=None), document("own", label=None)]
    return write_folder(tmp_path_factory.mktemp("page") / "out", [hostile, *special, *many])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(run, folder, browser):
    """The page, opened; whatever it complains of or asks for is collected and must be nothing at the end."""
    assert run("render_attribution", "--attribution_dir", folder).code == 0
    opened, trouble = browser.new_page(), []
    address = (folder / "attributions.html").as_uri()
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("dialog", lambda dialog: trouble.append(dialog.message))
    opened.on("request", lambda request: request.url == address or trouble.append(request.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert trouble == []


def ids(page):
    return page.locator("article h2").all_text_contents()


def test_documents_come_in_portions(page):
    assert len(ids(page)) == 25 and page.locator("#count").text_content() == "60 of 60 documents"
    page.get_by_role("button", name="Show more").click()
    page.get_by_role("button", name="Show more").click()
    assert len(ids(page)) == 60 and not page.locator("#more").is_visible()


def test_a_text_of_markup_is_shown_as_text(page):
    article = page.locator("article").first
    assert HOSTILE[:25] in article.locator(".text").text_content()
    assert page.locator("article script").count() == 0
    page.select_option("#level", "pieces")
    assert page.locator("article").first.locator(".text span").all_text_contents()[1] == "<script>"


def test_filters(page):
    page.select_option("#correct", "wrong")
    assert ids(page) == ["hostile", "wrong", "cut"]
    page.select_option("#correct", "right")
    assert page.locator("#count").text_content() == "56 of 60 documents"
    page.select_option("#correct", "")
    page.select_option("#label", "math.AG")
    assert ids(page) == ["own"]  # without a true class its predicted one counts
    page.select_option("#label", "")
    page.fill("#find", "1601.00012")
    assert ids(page) == ["1601.00012"]
    page.fill("#find", "QUOTES")
    assert ids(page) == ["hostile"]


def test_orders(page):
    page.select_option("#order", "error")
    assert ids(page)[:2] == ["1601.00055", "1601.00054"]
    page.select_option("#order", "margin")
    assert set(ids(page)[:4]) == {"hostile", "wrong", "cut", "own"}


def test_hover_and_keyboard_show_score_and_pieces(page):
    article = page.locator("article").nth(1)
    article.locator(".text span").first.hover()
    assert page.locator("#tip").text_content() == "kähler: +0.750 = ka +0.500, ##hler +0.250"
    page.locator("h1").hover()
    article.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").text_content() == "metric: −0.750"
    assert article.locator(".at").text_content() == "metric"


def test_readable_without_colour(page):
    spans = page.locator("article").nth(1).locator(".text span")
    lines = [spans.nth(k).evaluate("span => getComputedStyle(span).textDecorationStyle") for k in range(2)]
    assert lines == ["solid", "dashed"]


def test_curve_marks_and_bars(page):
    article = page.locator("article").nth(2)
    assert "cut at the limit" in article.text_content() and "undefined" in article.text_content()
    assert article.locator("svg title").text_content().endswith("chosen: 2")
    assert article.locator("svg circle").count() == 1
    widths = article.locator(".class i").evaluate_all("bars => bars.map(bar => bar.style.width)")
    assert widths == ["70%", "20%", "10%"]


def test_dark_mode_changes_the_paper(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_five_hundred_documents_are_light(run, tmp_path):
    """500 documents of 128 pieces with a curve of 200 numbers of steps: under 5 MB."""
    pieces, scores = [f"##piece{k % 7}" for k in range(126)], [0.123456789 * (-1) ** k for k in range(126)]
    text = " ".join(f"word{k:05d}" for k in range(100))
    long = {"text": text, "words": text.split(), "word_attributions": scores[:100], "gaps": [1.23456e-5] * 200}
    long |= {"word_spans": [[10 * k, 10 * k + 9] for k in range(100)], "tokens": ["[CLS]", *pieces, "[SEP]"]}
    long |= {"attributions": [0.0, *scores, 0.0], "word_ids": [None, *[k * 100 // 126 for k in range(126)], None]}
    folder = write_folder(tmp_path / "out", [document(f"1701.{k:05d}", token_spans=None, **long) for k in range(500)])
    assert run("render_attribution", "--attribution_dir", folder).code == 0
    assert (folder / "attributions.html").stat().st_size < 5_000_000
