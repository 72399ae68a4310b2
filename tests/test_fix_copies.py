"""tools/fix_copies.py: copies are equal to their source, and a difference is found and mended."""

import shutil

import pytest
from conftest import ROOT, assert_user_error

import fix_copies

SOURCE = '''import os

LIMIT = 3


def double(value):
    """Return twice the value."""
    return 2 * value
'''
COPY = """# Copied from tools/common/source.py::LIMIT
LIMIT = 4


# Copied from tools/common/source.py::double
def double(value):
    return value + value


def other():
    return double(LIMIT)
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tools" / "common").mkdir(parents=True)
    (tmp_path / "tools" / "common" / "source.py").write_text(SOURCE)
    (tmp_path / "script.py").write_text(COPY)
    return tmp_path


def test_every_copy_in_the_project_is_equal_to_its_source(run):
    result = run("fix_copies", "--check")
    assert result.code == 0, result.out


def test_check_names_what_differs_and_changes_nothing(run, project):
    result = run("fix_copies", "--check", "--root", project)
    assert result.code == 1
    assert "script.py: LIMIT differs" in result.out
    assert "script.py: double differs" in result.out
    assert (project / "script.py").read_text() == COPY


def test_copies_are_rewritten_from_their_source(run, project):
    assert run("fix_copies", "--root", project).code == 0
    fixed = (project / "script.py").read_text()
    assert "LIMIT = 3" in fixed
    assert '"""Return twice the value."""' in fixed
    assert "def other():" in fixed
    assert run("fix_copies", "--check", "--root", project).code == 0


def test_a_comment_alone_inserts_the_source(run, project):
    (project / "script.py").write_text("# Copied from tools/common/source.py::double\n")
    assert run("fix_copies", "--root", project).code == 0
    assert "return 2 * value" in (project / "script.py").read_text()


@pytest.mark.parametrize("source", ["tools/common/source.py::missing", "tools/gone.py::double"])
def test_a_source_that_does_not_exist_is_refused(run, project, source):
    (project / "script.py").write_text(f"# Copied from {source}\n")
    assert_user_error(run("fix_copies", "--root", project), source.split("::")[0])


def test_the_four_scripts_have_copies():
    for name in ("fetch_arxiv", "run_attribution", "run_baseline", "run_classification"):
        code = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        assert len(fix_copies.COMMENT.findall(code)) >= 4


def test_one_changed_line_in_a_script_is_found(run, tmp_path):
    for path in (*ROOT.glob("*.py"), *ROOT.glob("tools/**/*.py")):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    script = tmp_path / "run_baseline.py"
    script.write_text(script.read_text().replace("raise SystemExit(2)", "raise SystemExit(3)", 1))
    assert run("fix_copies", "--check", "--root", tmp_path).code == 1
