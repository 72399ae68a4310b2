"""tools/common: numbers as text, intervals, and what importing a module costs."""

import subprocess
import sys

import pytest
from conftest import ROOT
from statsmodels.stats.multitest import multipletests

from common.pages import faithfulness_rows, interval_text
from common.statistics import add_holm, holm
from common.text import escape_markdown, markdown_table, p_text, percent


def test_numbers_as_text():
    assert [percent(value) for value in (None, 0.12345, -0.00001, 1)] == [
        "",
        "12.35",
        "0.00",
        "100.00",
    ]
    assert [p_text(p) for p in (0.0001, 0.0123, 1)] == ["< 0.001", "= 0.012", "= 1.000"]
    near = (0.0494, 0.0496, 0.05, 0.0503, 0.049998)
    assert [p_text(p) for p in near] == [
        *("= 0.049", "= 0.0496", "= 0.050", "= 0.0503", "= 0.049998")
    ]
    part = {"mean": -0.0001, "low": -0.25, "high": 0.25}
    assert interval_text(part) == "0.000 (-0.250 to 0.250)"
    assert interval_text(part | {"low": None}) == interval_text(part | {"documents": 9}) == "0.000"
    assert interval_text(None) == ""


def test_note_on_intervals_depends_on_the_data_and_not_on_names():
    part = {"mean": 0.5, "low": 0.4, "high": 0.6, "documents": 40}
    few = part | {"documents": 9}
    note = "Means over documents with 95 % bootstrap intervals."
    shown = faithfulness_rows({"drop to zero": {"tau to": part}}, note)
    assert shown["note"] == note and shown["rows"] == [["drop to zero", "0.500 (0.400 to 0.600)"]]
    shown = faithfulness_rows({"drop to zero": {"tau to": few}}, note)
    assert shown["note"].startswith("Means over documents. Intervals are not reported for fewer")


def test_markdown_is_escaped():
    assert escape_markdown("a|b `c`\n<d> $e$ [f](g) *h* ~i~ #j") == (
        r"a\|b \`c\` &lt;d&gt; \$e\$ \[f\](g) \*h\* \~i\~ \#j"
    )
    table = markdown_table(["x", "y"], [["1|2", "3"]], {(0, 1)})
    assert table == "| x | y |\n| --- | ---: |\n| 1\\|2 | **3** |\n"


def test_holm_keeps_the_order_of_the_tests():
    p_values = [0.04, 0.001, 0.5, 0.012, 0.012]
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected)
    tests = [{"p": p} for p in p_values]
    add_holm(tests)
    assert [test["p_holm"] for test in tests] == holm(p_values)
    assert holm([]) == []


@pytest.mark.parametrize("module", ["cli", "folders", "text"])
def test_what_every_tool_imports_is_light(module):
    """jinja2 is not among the heavy ones: transformers imports it for chat templates."""
    assert not {"matplotlib", "scipy", "sklearn", "torch"} & imported_with(f"common.{module}")


def test_converting_a_csv_does_not_wait_for_packages_that_draw_and_compute():
    """torch is not among them: datasets imports it if it is there."""
    assert not {"matplotlib", "scipy", "sklearn"} & imported_with("prepare_dataset")


def imported_with(module):
    """Return the names of all modules that are there after importing one of tools/."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tools", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
