"""The notebooks run from top to bottom, and what is stored of them is small."""

import json

import pytest

from .pages import DOCS, name_of, require

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# Bytes of what came out of all cells: two figures.
MOST = 150_000


@pytest.mark.optional
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_it_runs(path, tmp_path):
    require("nbclient", "ipykernel")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    done = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    kinds = {output.output_type for cell in done.cells for output in cell.get("outputs", [])}
    assert {"execute_result", "display_data", "stream"} <= kinds
    assert (tmp_path / "runs" / "notebook").is_dir()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_what_is_stored_is_small_and_of_no_machine(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs and len(json.dumps(outputs)) < MOST
    assert all(output["output_type"] != "error" for output in outputs)
    # No time of a run, and no path.
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] is None and not cell["metadata"] for cell in code)
    text = json.dumps(
        [output.get("text", output.get("data", {}).get("text/plain")) for output in outputs]
    )
    assert "/home" not in text and "/tmp" not in text
