"""Execute `docs/musegen.ipynb` and store its outputs, as is done before a release.

    python scripts/run_notebook.py                      # with the shipped model
    python scripts/run_notebook.py --model FOLDER       # with another in its place
    python scripts/run_notebook.py --out FILE.ipynb     # store it elsewhere

Cells run in a temporary folder; one with the tag `skip-execution` (the installation) does not run. Nothing of the
machine is stored: no times, no paths, no versions.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "musegen.ipynb"
SECONDS = 300  # a cell


def execute(model: str | None = None, name: str = "mozart-gpt") -> nbformat.NotebookNode:
    """The notebook with fresh outputs.

    Args:
        model: A folder that stands in for the shipped model; None for the model itself.
        name: By which the notebook calls it.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        if model is not None:
            (Path(folder) / name).symlink_to(Path(model).resolve(), target_is_directory=True)
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> int:
    """Parse arguments, execute, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model to take in place of the shipped one")
    parser.add_argument("--out", type=Path, default=NOTEBOOK, help="where to store it; docs/musegen.ipynb by default")
    options = parser.parse_args()
    # Its progress bars and warnings would be stored as outputs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        notebook = execute(options.model)
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    aside = options.out.with_suffix(".partial")
    nbformat.write(notebook, aside)
    aside.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
