"""The notebook: ten cells from the installation to a page of music, executed in a fresh folder, stored as executed."""

import base64
import io
import json
import subprocess
import sys

import pytest
from doc_blocks import ROOT
from PIL import Image

from musegen.shipped import shipped_names
from musegen.training import save_model

NOTEBOOK = ROOT / "docs" / "musegen.ipynb"
MAX_BYTES = 500_000  # with its pictures; a repository keeps every version of it


@pytest.fixture(scope="module")
def stored():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory, tokenizer, tiny_model):
    """The notebook after a run of its own, by the script that stores it; with a tiny model where none is shipped."""
    folder = tmp_path_factory.mktemp("notebook")
    words = ["--out", str(folder / "executed.ipynb")]
    if "mozart-gpt" not in shipped_names():
        save_model(tiny_model, tokenizer, folder / "model")
        words += ["--model", str(folder / "model")]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_notebook.py", *words], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))


def pictures(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_every_cell_runs_and_ends_in_music(executed):
    assert [len(picture.getcolors(1 << 20)) > 2 for picture in pictures(executed)] == [True, True]
    last = "".join(executed["cells"][-1]["outputs"][0]["data"]["text/plain"])
    assert {"first.mid", "first.musicxml", "first.png", "first.mp3", "more.mid"} <= set(eval(last))


def test_it_has_ten_cells_and_installs_first(stored):
    assert len(stored["cells"]) == 10
    installing = [cell for cell in stored["cells"] if "pip install" in "".join(cell["source"])]
    assert installing == [stored["cells"][1]] and installing[0]["metadata"]["tags"] == ["skip-execution"]


def test_it_is_stored_as_executed(stored, executed):
    ran = [cell for cell in stored["cells"] if cell["cell_type"] == "code" and not cell["metadata"].get("tags")]
    assert all(cell["execution_count"] for cell in ran) and len(pictures(stored)) == 2
    assert [cell["source"] for cell in stored["cells"]] == [cell["source"] for cell in executed["cells"]]
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES and "Traceback" not in text and str(ROOT.parent) not in text
    kinds = {output["output_type"] for cell in stored["cells"] for output in cell.get("outputs", ())}
    assert kinds <= {"stream", "execute_result"}
