"""Training checkpoints: safetensors and JSON under a manifest of checksums, whole or not at all.

Layout of one: `model.safetensors` and `optimizer.safetensors` (by parameter name), `state.json` (all else),
`manifest.json` (SHA-256 of each). It is written aside and renamed, so that a folder named `step-N` is complete.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from musegen.errors import CheckpointError

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d+)$")


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write `folder/step-N`, N being `state["step"]`, and remove all but the newest `keep`.

    Args:
        folder: Of all checkpoints of a run.
        model: Unwrapped.
        optimizer: Over parameters of the model.
        state: JSON values.
        keep: Checkpoints that stay.
    """
    path = folder / f"step-{state['step']}"
    aside = folder / f"partial-{state['step']}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    parameters = dict(model.named_parameters())
    save_file({name: p.detach().cpu().contiguous() for name, p in parameters.items()}, aside / "model.safetensors")
    save_file(_optimizer_tensors(parameters, optimizer), aside / "optimizer.safetensors")
    (aside / "state.json").write_text(json.dumps(state), encoding="utf-8")
    sums = {p.name: _checksum(p) for p in sorted(aside.iterdir())}
    (aside / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in folder.glob("step-*") if _NAME.search(p.name)]
    return sorted(found, key=lambda p: int(_NAME.search(p.name).group(1)))


def read_state(path: Path) -> dict[str, Any]:
    """Check a checkpoint against its manifest and return its state.

    Raises:
        CheckpointError: Naming the file that is missing or torn.
    """
    try:
        sums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: no manifest, or a torn one ({error})") from None
    for name, checksum in sums.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: missing from the checkpoint")
        if _checksum(path / name) != checksum:
            raise CheckpointError(f"{path / name}: torn or altered, its checksum is not that of the manifest")
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimiser state in place. Call `read_state` first: it checks the files.

    Raises:
        CheckpointError: If the checkpoint is of another model.
    """
    parameters = dict(model.named_parameters())
    try:
        weights = load_file(path / "model.safetensors")
        slots = load_file(path / "optimizer.safetensors")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error})") from None
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if {name: tuple(w.shape) for name, w in weights.items()} != shapes:
        raise CheckpointError(f"{path}: a checkpoint of another model; its parameters differ in name or shape")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    names = {id(p): name for name, p in parameters.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}|"
            own = {key[len(prefix) :]: value for key, value in slots.items() if key.startswith(prefix)}
            # A fused optimiser wants its step count on the device of the parameter; others on the CPU.
            device = parameter.device if group.get("fused") else torch.device("cpu")
            optimizer.state[parameter] = {
                key: value.to(device if key == "step" else parameter.device) for key, value in own.items()
            }


def _optimizer_tensors(parameters: dict, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = {id(p): name for name, p in parameters.items()}
    return {
        f"{names[id(parameter)]}|{key}": value.detach().cpu().contiguous()
        for parameter, slots in optimizer.state.items()
        for key, value in slots.items()
    }


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()
