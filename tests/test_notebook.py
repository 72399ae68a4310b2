"""The notebook runs from its first cell to the last, and the repository keeps one picture of it."""

import shutil

import nbformat
import pytest
from conftest import ROOT, write_tiny_model
from nbclient import NotebookClient

NOTEBOOK = ROOT / "notebooks/explain_a_decision.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory, tiny_dataset):
    """The notebook after it ran on a tiny run and its dataset in place of the quick start's."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "run_attribution.py", folder)
    write_tiny_model(folder / "quickstart/minilm", text_prefix="ricci flow: ", max_seq_length=12)
    shutil.copytree(tiny_dataset, folder / "quickstart/data")
    (folder / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    check = """print("predict:", (values[number, 0] / values[number, 1]).log().item())
print("attribute:", contrast["f_input"])"""
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    place = {"metadata": {"path": folder / "notebooks"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # the notebook's own backend draws into it
        NotebookClient(notebook, timeout=250, resources=place).execute()
    return notebook


def outputs(cell, kind):
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_shows_prediction_attribution_and_comparison(executed):
    cells = code_cells(executed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [text for cell in cells for text in outputs(cell, "text/html")]
    assert any("<article>" in text and "<span style=" in text for text in shown), "no attribution"
    assert sum("<table" in text for text in shown) == 2, "predictions, and without three words"
    assert len([picture for cell in cells for picture in outputs(cell, "image/png")]) == 1


def test_attributions_of_the_notebook_add_up(executed):
    (printed,) = [
        output.text
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream" and "F(text)" in output.text
    ]
    total, difference = (float(line.split()[-1]) for line in printed.splitlines()[:2])
    assert total == pytest.approx(difference, abs=2e-4)


def test_prediction_and_attribution_read_the_same_text(executed):
    """With the prefix of the run, and as many tokens as it read in its training."""
    (printed,) = [
        output.text for output in code_cells(executed)[-1].outputs if output.output_type == "stream"
    ]
    predicted, attributed = (float(line.split()[-1]) for line in printed.splitlines())
    assert predicted == pytest.approx(attributed, abs=1e-5)


def test_repository_keeps_one_picture_and_no_other_output():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    kept = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [sorted(output.data) for output in kept] == [["image/png"]]
    assert all(cell.execution_count is None for cell in code_cells(notebook))
    assert NOTEBOOK.stat().st_size < 200_000
