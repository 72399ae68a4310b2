"""The rules of the repository itself: flat scripts that do not import each other, pins that are exact."""

import ast
import re

import pytest
from conftest import ROOT

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_stands_alone(script):
    tree = ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8"))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not imported & set(SCRIPTS), "a script must work when copied alone"
    assert not imported & {"pickle", "joblib", "dill", "cloudpickle"}
    assert ast.get_docstring(tree), "a script opens with what it does and how to run it"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_exact_pins(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r"))]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^ ]*", line), line
