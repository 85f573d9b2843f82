"""What is committed of the notebooks; that they run is checked by nbval (see pyproject.toml)."""

import json
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_as_it_ran_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_place_of_this_machine_and_no_widget_state(path):
    text = path.read_text()
    for place in (str(Path.home()), str(FOLDER.parent), "/tmp/", "\\u001b["):
        assert place not in text
    assert "widgets" not in json.loads(text)["metadata"]
    assert len(text) < 500_000


def test_the_first_notebook_is_there():
    assert next(path.name for path in NOTEBOOKS) == "01_first_tick.ipynb"
