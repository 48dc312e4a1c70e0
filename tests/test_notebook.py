"""docs/quickstart.ipynb runs from a fresh folder, on the starter."""

import os
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"
SHORT = "--base_model starter --max_train_steps 4 --num_class_images 2 --num_validation_images 1"


def read() -> "nbformat.NotebookNode":
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_holds_no_results():
    nbformat.validate(read())
    assert not [cell for cell in read().cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_notebook_trains_at_the_usual_settings():
    assert [cell for cell in read().cells if cell.source.startswith('flags = ""')]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = read()
    (training,) = [cell for cell in notebook.cells if cell.source.startswith('flags = ""')]
    training.source = training.source.replace('flags = ""', f'flags = "{SHORT}"')
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "dog" / "vectors.safetensors").exists()
    assert list((tmp_path / "runs" / "dog").glob("lora-*.safetensors"))
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 4
