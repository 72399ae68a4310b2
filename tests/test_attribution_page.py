"""attributions.html in a real browser, and the contrast of the style sheet of all pages."""

import json
import re

import numpy as np
import pytest
import torch
from browser import browser, check_page, open_page  # noqa: F401
from conftest import ROOT, assert_user_error
from test_render_attributions import call, document, write_faithfulness, write_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_attribution

HOSTILE = '<script>alert(1)</script> & "quotes"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """62 documents: one hostile, one wrong, one truncated, one without label, two unusual ones, the
    rest alike.
    """
    many = [document(f"1601.{number:05d}", relative_error=1e-7 * number) for number in range(56)]
    for line in many:
        line |= {
            "prediction": "math.DG",
            "probabilities": {"math.DG": 0.9, "math.AG": 0.06, "math.SG": 0.04},
        }
    hostile = document(
        "hostile", text=HOSTILE, words=["<script>alert(1)</script>"], word_attributions=[0.5]
    )
    hostile |= {
        "word_spans": [[0, 25]],
        "tokens": ["[CLS]", "<script>", "alert(1)", "</script>", "[SEP]"],
    }
    hostile |= {
        "word_ids": [None, 0, 0, 0, None],
        "token_spans": None,
        "attributions": [0.0, 0.2, 0.2, 0.1, 0.0],
    }
    special = [
        document("wrong"),
        document("cut", truncated=True, relative_error=None),
        document("own", label=None),
    ]
    wordless = document(
        "wordless", words=[], word_attributions=[], word_spans=[], word_ids=[None] * 5
    )
    script = document(
        "script",
        text="𝔄𝔅 kähler 𝔐etric.",
        word_spans=[[3, 9], [10, 16]],
        words=["kähler", "𝔐etric"],
    )
    folder = write_folder(
        tmp_path_factory.mktemp("page") / "out", [hostile, *special, *many, wordless, script]
    )
    write_faithfulness(folder)
    call("render_attributions", "--attribution_dir", folder)
    return folder


@pytest.fixture
def page(folder, browser):  # noqa: F811
    with open_page(browser, folder / "attributions.html") as opened:
        yield opened


def ids(page):
    return page.locator("article h2").all_text_contents()


def test_documents_come_in_portions(page):
    assert len(ids(page)) == 25 and page.locator("#count").text_content() == "62 of 62 documents"
    page.get_by_role("button", name="Show more").click()
    page.get_by_role("button", name="Show more").click()
    assert len(ids(page)) == 62 and not page.locator("#more").is_visible()


def test_a_text_of_markup_is_shown_as_text(page):
    article = page.locator("article").first
    assert HOSTILE[:25] in article.locator(".text").text_content()
    assert page.locator("article script").count() == 0
    page.select_option("#level", "tokens")
    assert page.locator("article").first.locator(".text span").all_text_contents()[1] == "<script>"


def test_filters(page):
    page.select_option("#correct", "wrong")
    assert ids(page) == ["hostile", "wrong", "cut", "wordless", "script"]
    page.select_option("#correct", "right")
    assert page.locator("#count").text_content() == "56 of 62 documents"
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
    assert set(ids(page)[:6]) == {"hostile", "wrong", "cut", "own", "wordless", "script"}


def test_hover_and_keyboard_show_score_and_tokens(page):
    article = page.locator("article").nth(1)
    article.locator(".text span").first.hover()
    assert page.locator("#tip").text_content() == "kähler: +0.750 = ka +0.500, ##hler +0.250"
    page.locator("h1").hover()
    article.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").text_content() == "metric: −0.750"
    assert article.locator(".at").text_content() == "metric"


def test_readable_without_color(page):
    spans = page.locator("article").nth(1).locator(".text span")
    lines = [
        spans.nth(k).evaluate("span => getComputedStyle(span).textDecorationStyle")
        for k in range(2)
    ]
    assert lines == ["solid", "dashed"]


def test_curve_marks_and_bars(page):
    article = page.locator("article").nth(2)
    assert (
        "truncated at the maximum length" in article.text_content()
        and "undefined" in article.text_content()
    )
    assert article.locator("svg title").text_content().endswith("chosen: 2")
    assert article.locator("svg circle").count() == 1
    widths = article.locator(".class i").evaluate_all("bars => bars.map(bar => bar.style.width)")
    assert widths == ["70%", "20%", "10%"]


def test_a_document_without_words(page):
    """The keyboard does nothing, and the text is shown."""
    page.fill("#find", "wordless")
    text = page.locator("article .text")
    assert text.text_content() == "kähler metric"
    text.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert not page.locator("#tip").is_visible()
    page.select_option("#level", "tokens")
    page.locator("article .text").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").text_content() == "[CLS]: +0.00"


def test_characters_outside_the_basic_plane(page):
    """Positions of words count characters; a script's strings count UTF-16 units."""
    page.fill("#find", "script")
    article = page.locator("article", has_text="𝔐etric")
    assert article.locator(".text").text_content() == "𝔄𝔅 kähler 𝔐etric."


def test_printing_shows_all_chosen_documents(page):
    page.select_option("#correct", "right")
    assert len(ids(page)) == 25
    page.pdf()
    assert len(ids(page)) == 56
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible() and not page.locator("#more").is_visible()


def explained_classes():
    """A document as run_attribution.py --target all writes it: the scores of every class."""
    keys = "attributions word_attributions method n_steps relative_error f_input f_baseline"
    keys += " gradient_evaluations"
    classes = {
        label: {key: document()[key] for key in keys.split()}
        for label in ("math.AG", "math.DG", "math.SG")
    }
    classes["math.SG"] |= {
        "word_attributions": [0.1, -0.2],
        "relative_error": 3e-3,
        "converged": False,
    }
    return document(classes=classes)


def test_contrast_and_all_classes(run, tmp_path, browser):  # noqa: F811
    folder = write_folder(tmp_path / "versus", [document(versus="math.DG")])
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        meta = page.locator("article .meta").first.text_content()
        assert meta == "true class: math.DG — wrong; explained: math.AG rather than math.DG"
        assert "minus the logit of the class" in page.locator("p").first.text_content()
        assert page.locator("#target").count() == 0
    folder = write_folder(tmp_path / "all", [explained_classes(), document("alone")])
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        article = page.locator("article").first
        # Every class, the target first, then by probability
        headings = article.locator(".class-heading").all_text_contents()
        assert headings == [
            "for math.AG, probability 0.70",
            "for math.DG, probability 0.20",
            "for math.SG, probability 0.10",
        ]
        assert article.locator(".text").count() == 3 and "explained:" not in article.text_content()
        article.locator(".text span").first.hover()
        assert page.locator("#tip").text_content().startswith("kähler: +0.750 =")
        article.locator(".text").nth(2).locator("span").first.hover()
        assert page.locator("#tip").text_content().startswith("kähler: +0.100 =")
        page.select_option("#target", "math.SG")
        assert article.locator(".text").count() == 1
        article.locator(".text span").first.hover()
        assert page.locator("#tip").text_content().startswith("kähler: +0.100 =")
        assert "explained: math.SG" in article.text_content()
        assert "3.0e-3" in article.text_content() and "NOT CONVERGED" in article.text_content()
        assert "scores of single words may be off" in article.text_content()
        # A document whose other classes were not explained shows its target
        other = page.locator("article").nth(1)
        assert other.locator(".text").count() == 1 and "explained" not in other.text_content()


def test_a_card_answers_in_the_order_of_the_questions(run, tmp_path, browser):  # noqa: F811
    """What it said and how sure, what is true, which words, what it says without them; numbers are
    folded away.
    """
    changed = {"math.AG": 0.31, "math.DG": 0.6, "math.SG": 0.09}
    line = document(without_top_words={"words": [0], "probabilities": changed})
    folder = write_folder(tmp_path / "out", [line, document("plain")])
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        article = page.locator("article").first
        assert article.locator("> *").evaluate_all("nodes => nodes.map(n => n.className)") == [
            "", "answer", "meta", "text", "without", "foot", ""
        ]  # fmt: skip
        assert article.locator(".answer").text_content() == "math.AG with probability 0.70"
        assert article.locator(".meta").text_content() == "true class: math.DG — wrong"
        assert article.locator(".without").text_content() == (
            "Without the strongest word (kähler): math.AG 0.31 instead of 0.70; "
            "the prediction would be math.DG."
        )
        assert not article.get_by_text("F(x) − F(b)").is_visible()
        article.locator("summary").click()
        assert article.get_by_text("F(x) − F(b)").is_visible()
        assert page.locator("article").nth(1).locator(".without").count() == 0
        assert page.locator(".legend").count() == 1
        shades = page.locator(".legend span").evaluate_all(
            "spans => spans.map(span => getComputedStyle(span).textDecorationStyle)"
        )
        assert shades == ["solid", "dashed"]


def test_the_page_says_what_ran(run, tmp_path, browser):  # noqa: F811
    """An integral and panels have points, not steps of a rule."""
    documents = [
        document(method, method=method, n_steps=31)
        for method in ("gausslegendre", "integral", "panels")
    ]
    folder = write_folder(tmp_path / "out", documents)
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        numbers = page.locator("article details .foot").all_text_contents()
    shown = ["31 steps of gausslegendre", "interpolant of 31 points", "panels between 31 points"]
    for text, words in zip(numbers, shown, strict=True):
        assert words in text


def test_the_curve_of_a_rough_path_is_called_an_estimate(run, tmp_path, browser):  # noqa: F811
    documents = [document("sure"), document("rough", converged="stated", stated_error=0.05)]
    folder = write_folder(tmp_path / "out", documents)
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        for number, is_estimate in enumerate((False, True)):
            curve = page.locator("article").nth(number).locator("svg").text_content()
            assert ("rough estimate" in curve) == is_estimate


def test_a_second_baseline_on_request(run, tmp_path, browser):  # noqa: F811
    """From another folder, or from one that was made with several baselines."""
    folder = write_folder(tmp_path / "pad", [document()])
    mask = document(word_attributions=[-0.5, 0.25], attributions=[0.0, -0.5, 0.0, 0.25, 0.0])
    mask["without_top_words"] = {"words": [1], "probabilities": mask["probabilities"]}
    other = write_folder(tmp_path / "mask", [mask])
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"baseline": "MASK"}))
    both = document(baselines={"PAD": document(), "MASK": mask})
    for place, flags in (
        (folder, ("--compare", other)),
        (write_folder(tmp_path / "both", [both]), ()),
    ):
        assert run("render_attributions", "--attribution_dir", place, *flags).code == 0
        with open_page(browser, place / "attributions.html") as page:
            assert page.locator("#baseline option").all_text_contents() == ["PAD", "MASK"]
            word = page.locator("article .text span").first
            word.hover()
            assert page.locator("#tip").text_content().startswith("kähler: +0.750")
            page.select_option("#baseline", label="MASK")
            page.locator("article .text span").first.hover()
            assert page.locator("#tip").text_content().startswith("kähler: −0.500")
            assert page.locator(".without").text_content().startswith("Without the strongest word")
            page.select_option("#baseline", label="PAD")
            assert page.locator(".without").count() == 0
    result = run("render_attributions", "--attribution_dir", folder, "--compare", folder)
    assert_user_error(result, "--compare requires other baselines", "PAD, PAD")
    result = run("render_attributions", "--attribution_dir", folder, "--compare", tmp_path)
    assert_user_error(result, "attributions.jsonl")


def test_several_classes_and_none(run, tmp_path, browser):  # noqa: F811
    """Of a text with several labels, all are named; without a true class nothing is right or
    wrong.
    """
    several = document(prediction=["math.AG", "math.DG"], label=["math.DG", "math.AG"])
    none = document("none", prediction=[], label=[])
    unlabeled = document("unlabeled", prediction=["math.AG"], label=None)
    folder = write_folder(tmp_path / "out", [several, none, unlabeled])
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        answers = page.locator(".answer").all_text_contents()
        assert answers == [
            "math.AG with probability 0.70, math.DG with probability 0.20",
            "no class",
            "math.AG with probability 0.70",
        ]
        truths = [text.split(";")[0] for text in page.locator("article .meta").all_text_contents()]
        assert truths == [
            "true classes: math.DG, math.AG", "true classes: none", "true class: unknown"
        ]  # fmt: skip
        page.select_option("#correct", "right")
        assert ids(page) == ["1501.00001", "none"]
        page.select_option("#correct", "")
        page.select_option("#label", "math.DG")
        assert ids(page) == ["1501.00001"]


def test_faithfulness_of_the_whole_folder(run, tmp_path, browser):  # noqa: F811
    """One table with costs and mosaics, the differences folded away, disagreements as sentences;
    hostile words in what the strongest ones are stay text.
    """
    hostile = document(words=["<b>kähler</b>", "metric"])
    folder = write_folder(tmp_path / "out", [hostile])
    write_faithfulness(folder)
    cell = {"mean": 0.9, "low": 0.8, "high": 0.95, "documents": 40}
    content = json.loads((folder / "faithfulness.json").read_text())
    content |= {
        "differences": [
            {"measure": "comprehensiveness", "method": "random", "difference": 0.4, "low": 0.3}
            | {"high": 0.5, "p": 0.0001, "p_holm": 0.0003, "documents": 40}
        ],
        "disagreements": ["Sufficiency <i>differs</i>."],
        "mosaics": {"mosaics": 40, "note": "Share.", "chance": cell}
        | {"scores": {"integrated gradients": cell | {"mean": 0.91}}},
        "cost": {
            "integrated gradients": {
                "gradient_evaluations": cell | {"mean": 65.0},
                "forward_evaluations": None,
                "seconds": cell,
            }
        },
        "baseline": "PAD",
        "baselines": [
            {"baseline": "MASK", "spearman": cell | {"mean": 0.77}, "top_5_overlap": cell}
            | {"top_5_overlap_by_chance": cell}
        ],
        "per_document": [
            {
                "id": "1501.00001",
                "target": "math.AG",
                "without_strongest": {
                    "words": [0],
                    "probabilities": {"math.AG": 0.6, "math.DG": 0.3, "math.SG": 0.1},
                    "probabilities_deleted": {"math.AG": 0.35, "math.DG": 0.3, "math.SG": 0.35},
                },
            }
        ],
    }
    (folder / "faithfulness.json").write_text(json.dumps(content))
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    with open_page(browser, folder / "attributions.html") as page:
        header = page.locator("table").first.locator("thead th").all_text_contents()
        assert header[-4:] == [
            "mosaic score", "gradients per document", "forward evaluations per document",
            "seconds per document",
        ]  # fmt: skip
        row = page.locator("table").first.locator("tbody tr").first.text_content()
        assert "0.910 (0.800 to 0.950)" in row and "65.000" not in row and "65" in row
        assert page.get_by_text("Sufficiency <i>differs</i>.").is_visible()
        tests = page.locator("details", has_text="paired by document")
        assert not tests.locator("table").is_visible()
        tests.locator("summary").click()
        assert (
            "0.400 (0.300 to 0.500)" in tests.text_content() and "< 0.001" in tests.text_content()
        )
        assert (
            "0.770"
            in page.get_by_text("Agreement with other baselines").locator("..").text_content()
        )
        assert page.locator(".without").text_content() == (
            "Without the strongest word (<b>kähler</b>): math.AG 0.60 instead of 0.70 "
            "(0.35 with these words deleted, not replaced)."
        )
    check_page(browser, folder / "attributions.html")
    content["differences"] = [{"measure": 1}]
    (folder / "faithfulness.json").write_text(json.dumps(content))
    result = run("render_attributions", "--attribution_dir", folder)
    assert_user_error(result, "faithfulness.json", "damaged", "again")


@pytest.mark.parametrize(
    "flags", [{}, {"target": "math.DG", "versus": "math.AG"}], ids=["predicted", "versus"]
)
def test_a_notebook_shows_the_elements_of_the_page(run, tmp_path, tiny_model, browser, flags):  # noqa: F811
    """Heading, classes and words of attribute()'s objects; the colors are inline, as a notebook has
    no style sheet.
    """
    text = "every kähler form <b> & convex bound ."
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    out, steps = tmp_path / "out", ("--n_steps", 20)
    run(
        "run_attribution",
        "--model_name_or_path",
        tiny_model,
        "--output_dir",
        out,
        "--text",
        text,
        *steps,
        *words,
    )
    run("render_attributions", "--attribution_dir", out)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    (line,) = run_attribution.attribute(model, tokenizer, [text], n_steps="20", **flags)
    (tmp_path / "notebook.html").write_text(
        f'<meta charset="utf-8">{line._repr_html_()}', encoding="utf-8"
    )
    seen = []
    for path in (out / "attributions.html", tmp_path / "notebook.html"):
        with open_page(browser, path) as page:
            texts = [
                page.locator(f"article > {place}").all_text_contents()
                for place in ("h2", "p.answer", "p.meta", "p.without")
            ]
            spans = page.locator("article > p.text > span")
            colors = spans.evaluate_all(
                "spans => spans.map(span => getComputedStyle(span).backgroundColor)"
            )
            red_green = [
                [float(value) for value in re.findall(r"[\d.]+", color)[:2]] for color in colors
            ]
            seen.append(
                [
                    *texts,
                    spans.all_text_contents(),
                    [np.sign(green - red) for red, green in red_green],
                ]
            )
    (*texts, words, signs), (*notebook_texts, notebook_words, notebook_signs) = seen
    assert texts == notebook_texts and words == notebook_words and len(words) > 5
    # The page leaves out scores below 1 %.
    differ = sum(a != b for a, b in zip(signs, notebook_signs, strict=True))
    assert differ <= sum(sign == 0 for sign in signs) < len(signs) / 2


def test_wide_and_narrow_light_and_dark(folder, browser):  # noqa: F811
    check_page(browser, folder / "attributions.html")


def shades(text, scheme):
    """The custom properties of a color scheme in the style sheet."""
    rules = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    found = {}
    for rule in rules[: {"light": 1, "dark": 2}[scheme]]:
        found |= dict(re.findall(r"--([a-z]+): ([^;]+);", rule))
    return found


def luminance(color):
    """Relative luminance as WCAG 2 defines it; color is three values from 0 to 255."""
    parts = [value / 255 for value in color]
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_text_is_enough_for_wcag_aa(scheme):
    """Every color of text on every background, and the text of a document on every shade: at least
    4.5.
    """
    found = shades((ROOT / "tools" / "common" / "templates" / "style.css").read_text(), scheme)
    color = {name: [int(found[name][k : k + 2], 16) for k in (1, 3, 5)] for name in
             ("ink", "paper", "card", "faint", "link")}  # fmt: skip
    for text in ("ink", "faint", "link"):
        for background in ("paper", "card"):
            assert contrast(color[text], color[background]) >= 4.5, (text, background)
    for sign in ("plus", "minus"):
        shade, most = [int(value) for value in found[sign].split()], float(found["most"])
        for strength in range(101):
            share = most * strength / 100
            mixed = [share * a + (1 - share) * b for a, b in zip(shade, color["card"], strict=True)]
            assert contrast(color["ink"], mixed) >= 4.5, (sign, strength)
        assert contrast(mixed, color["card"]) > 1.8, "the strongest words must stand out"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_on_the_page_is_that_of_the_style_sheet(folder, browser, scheme):  # noqa: F811
    """The strongest words as the browser paints them."""
    with open_page(browser, folder / "attributions.html", color_scheme=scheme) as page:
        article = page.locator("article").nth(1)
        painted = [
            article.evaluate(f"node => getComputedStyle(node).{name}")
            for name in ("backgroundColor", "color")
        ]
        card, ink = ([int(value) for value in re.findall(r"\d+", color)[:3]] for color in painted)
        for span in article.locator(".text span").all():
            painted = span.evaluate("node => getComputedStyle(node).backgroundColor")
            *shade, share = [float(value) for value in [*re.findall(r"[\d.]+", painted), "1"][:4]]
            mixed = [share * a + (1 - share) * b for a, b in zip(shade, card, strict=True)]
            assert contrast(mixed, ink) >= 4.5 and contrast(mixed, card) > 1.8


def test_five_hundred_documents_are_light(run, tmp_path):
    """500 documents of 128 tokens with a curve of 200 numbers of steps: under 5 MB."""
    tokens, scores = (
        [f"##piece{k % 7}" for k in range(126)],
        [0.123456789 * (-1) ** k for k in range(126)],
    )
    text = " ".join(f"word{k:05d}" for k in range(100))
    long = {
        "text": text,
        "words": text.split(),
        "word_attributions": scores[:100],
        "gaps": [1.23456e-5] * 200,
    }
    long |= {
        "word_spans": [[10 * k, 10 * k + 9] for k in range(100)],
        "tokens": ["[CLS]", *tokens, "[SEP]"],
    }
    long |= {
        "attributions": [0.0, *scores, 0.0],
        "word_ids": [None, *[k * 100 // 126 for k in range(126)], None],
    }
    folder = write_folder(
        tmp_path / "out", [document(f"1701.{k:05d}", token_spans=None, **long) for k in range(500)]
    )
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    assert (folder / "attributions.html").stat().st_size < 5_000_000
