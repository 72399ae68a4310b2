"""Make the pictures of the documentation from a finished quick start.

    bash run_quickstart.sh
    python docs/make_pictures.py

Writes a screenshot of each of the three pages into docs/pictures/ (report, attributions, context),
and runs the notebook and keeps its picture, without its other outputs. Requires what the tests of
the pages require, chromium and playwright (requirements-dev.txt). The sample's numbers in the
pictures are not to be cited.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import CHROMIUM  # noqa: E402

NOTEBOOK = ROOT / "notebooks/explain_a_decision.ipynb"
# Pages in the folder of the quick start, and the element that the picture begins with
PAGES = {
    "report": ("report/index.html", "body"),
    "attributions": ("attribution/attributions.html", "article"),
    "context": ("context/context.html", "body"),
}
SIZE = {"width": 1100, "height": 1000}


def take_screenshots(quickstart: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (page_file, element) in PAGES.items():
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto((quickstart / page_file).resolve().as_uri())
            page.locator(element).first.evaluate("element => element.scrollIntoView()")
            if element != "body":
                page.evaluate("scrollBy(0, -70)")  # below the bar that stays on top
            page.screenshot(path=folder / f"{name}.png")
            page.close()
            print(folder / f"{name}.png")
        browser.close()


def keep_picture_of_notebook() -> None:
    """Run the notebook where it is, on the quick start's MiniLM."""
    os.environ.pop("MPLBACKEND", None)  # the notebook's own backend draws into the notebook
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": NOTEBOOK.parent}}
    NotebookClient(notebook, timeout=600, resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [
                output for output in cell.outputs if "image/png" in output.get("data", {})
            ]
            for output in cell.outputs:
                output.data.pop("text/plain", None)
    notebook.metadata.pop("language_info", None)  # the version of Python
    nbformat.write(notebook, NOTEBOOK)
    print(NOTEBOOK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quickstart", type=Path, default=ROOT / "quickstart")
    arguments = parser.parse_args()
    missing = [page for page, _ in PAGES.values() if not (arguments.quickstart / page).exists()]
    if missing or CHROMIUM is None:
        remedy = "run run_quickstart.sh first" if missing else "apt-get install chromium"
        print(f"error: no {', '.join(missing) or 'chromium'}; {remedy}", file=sys.stderr)
        sys.exit(2)
    take_screenshots(arguments.quickstart, ROOT / "docs/pictures")
    keep_picture_of_notebook()


if __name__ == "__main__":
    main()
