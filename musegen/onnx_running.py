"""Steps of an ONNX export under onnxruntime, for the package's own decoding loop.

What an export is, and how one is made: `musegen.exporting`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from musegen.errors import ModelError, MusegenError
from musegen.inference import Stepper, read_generation_config
from musegen.likelihood import context_of

GRAPH = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Say what is missing.

    Raises:
        MusegenError: Naming the extra to install.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MusegenError(f"ONNX needs {', '.join(missing)}: pip install 'musegen[onnx]'")


class OnnxModel:
    """An export that `musegen.generation` and `musegen.composing` take as they take a model.

    Args:
        folder: An export.
        threads: Of onnxruntime; one a core by default.

    Raises:
        ModelError: If no export is there, or it cannot be read.
        MusegenError: If the extra is not installed.
    """

    device = torch.device("cpu")

    def __init__(self, folder: str | Path, threads: int | None = None):
        require_onnx()
        import onnxruntime

        path = Path(folder) / GRAPH
        if not path.is_file():
            raise ModelError(f"{folder}: no export there: it has no {GRAPH}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors alone
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.config = SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
            self.generation_config = read_generation_config(folder)
        except Exception as error:  # onnxruntime has an exception for each kind of damage
            raise ModelError(f"{folder}: cannot be read as an export: {' '.join(str(error).split())[:200]}") from error
        self.config.max_position_embeddings = getattr(self.config, "n_positions", None)

    def eval(self) -> OnnxModel:
        """Itself, which never trains."""
        return self

    def stepper(self, rows: int) -> OnnxStepper:
        """By which `musegen.inference.stepper_for` asks for steps."""
        return OnnxStepper(self, rows)


class OnnxStepper(Stepper):
    """Steps of an export; rows of one length are read together, and their memory stays together until one leaves.

    Args:
        model: The export.
        rows: See `Stepper`.
    """

    def __init__(self, model: OnnxModel, rows: int):
        super().__init__(rows, context_of(model))
        self.session = model.session
        self.inputs = {entry.name for entry in self.session.get_inputs()}
        self.memory = {e.name: e.shape for e in self.session.get_inputs() if e.name.startswith("input.")}
        self.lengths = [0] * rows
        # Of each row: arrays of a batch that it was read in, and which row of these it is.
        self.places: list[tuple[list[np.ndarray], int]] = [([], 0)] * rows

    def start(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        logits, memory = self._run(np.array([list(ids)], np.int64), 0, self._empty())
        self.lengths[row], self.places[row] = len(ids), (memory, 0)
        return torch.from_numpy(logits[0])  # (vocabulary,)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        out: list = [None] * len(tokens)
        groups: dict[int, list[int]] = {}
        for row in range(len(tokens)):
            # An LSTM's memory has one size at any length.
            groups.setdefault(self.lengths[row] if self.context else 0, []).append(row)
        for rows in groups.values():
            ids = np.array([[int(tokens[row])] for row in rows], np.int64)  # (rows, 1)
            logits, memory = self._run(ids, self.lengths[rows[0]], self._gather(rows))
            for i, row in enumerate(rows):
                self.places[row], out[row] = (memory, i), logits[i]
                self.lengths[row] += 1
        return torch.from_numpy(np.stack(out))  # (rows, vocabulary)

    def move(self, source: int, target: int) -> None:
        # Arrays are never written to, so two rows may share them.
        self.lengths[target], self.places[target] = self.lengths[source], self.places[source]

    def reference(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(self._run(np.array([list(ids)], np.int64), 0, self._empty())[0][0])

    def _empty(self) -> list[np.ndarray]:
        sizes = {"batch": 1, "past": 0}
        return [np.zeros([sizes.get(size, size) for size in shape], np.float32) for shape in self.memory.values()]

    def _gather(self, rows: list[int]) -> list[np.ndarray]:
        """The memory of some rows as one batch, copied only where it is not one already."""
        first = self.places[rows[0]][0]
        places = [self.places[row] for row in rows]
        if len(first[0]) == len(rows) and all(p[0] is first and p[1] == i for i, p in enumerate(places)):
            return first
        return [np.concatenate([p[0][k][p[1] : p[1] + 1] for p in places]) for k in range(len(first))]

    def _run(self, ids: np.ndarray, past: int, memory: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits after the last of `ids`, (batch, vocabulary), and the memory then."""
        batch, time = ids.shape
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((batch, past + time), np.int64),
            "position_ids": np.tile(np.arange(past, past + time), (batch, 1)),
            **dict(zip(self.memory, memory)),
        }
        logits, *memory = self.session.run(None, {name: feeds[name] for name in self.inputs})
        return logits[:, -1], memory
