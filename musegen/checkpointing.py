"""Training checkpoints: safetensors and JSON under a manifest of checksums, whole or not at all.

Layout of one: `model.safetensors` and `optimizer.safetensors` (by parameter name), `state.json` (all else),
`manifest.json` (the layout's number, and the SHA-256 of each file). It is written aside, flushed to the disk, and
renamed, so that a folder named `step-N` is complete even if the machine fails the moment after.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from musegen import sharding
from musegen.errors import CheckpointError

MANIFEST = "manifest.json"
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
FORMAT = 1  # of the layout; another number means files that this version cannot read
_NAME = re.compile(r"step-(\d+)$")
_ASIDE = ("partial-", "replaced-")  # what a run that was killed while it saved may leave


Tensors = dict[str, torch.Tensor]


def snapshot(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True
) -> tuple[Tensors, Tensors] | None:
    """The weights by name, and the optimiser's state by `parameter|name`, on the CPU.

    Args:
        model: Unwrapped; if it is sharded, all processes have to come here, and each tensor is put together again.
        optimizer: Over parameters of the model.
        keep: Give the tensors out; None otherwise, for a process that only helps the others.
    """
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    slots = (
        (f"{names[id(parameter)]}|{key}", value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    )
    found = tuple(dict(sharding.whole_on_cpu(tensors, keep=keep)) for tensors in (parameters.items(), slots))
    return found if keep else None


def save_checkpoint(folder: Path, tensors: tuple[Tensors, Tensors], state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write `folder/step-N`, N being `state["step"]`, and remove all but the newest `keep`.

    Args:
        folder: Of all checkpoints of a run.
        tensors: See `snapshot`.
        state: JSON values; no NaN, no infinity.
        keep: Checkpoints that stay, 1 or more.

    Raises:
        CheckpointError: If the disk is full or not writable; the checkpoints before stay as they are.
    """
    path, aside = folder / f"step-{state['step']}", folder / f"partial-{state['step']}"
    replaced = folder / f"replaced-{state['step']}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in (p for prefix in _ASIDE for p in folder.glob(f"{prefix}*")):
            shutil.rmtree(left)
        aside.mkdir()
        _write_files(aside, tensors, state)
        if path.exists():
            path.rename(replaced)
        aside.rename(path)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"{path}: not saved: {_write_reason(error)}") from error
    shutil.rmtree(replaced, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        # Renamed first, so that a kill half way leaves no folder that looks like a checkpoint.
        old = old.rename(old.with_name(old.name.replace("step-", "replaced-")))
        shutil.rmtree(old, ignore_errors=True)
    return path


def _write_files(aside: Path, tensors: tuple[Tensors, Tensors], state: dict[str, Any]) -> None:
    for name, part in zip(FILES, tensors):
        save_file(part, aside / name)
    (aside / FILES[2]).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
    manifest = {"format": FORMAT, "files": {name: _checksum(aside / name) for name in FILES}}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for name in (*FILES, MANIFEST):
        _flush(aside / name)
    _flush(aside)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in folder.glob("step-*") if _NAME.search(p.name)]
    return sorted(found, key=lambda p: int(_NAME.search(p.name).group(1)))


def read_state(path: Path) -> dict[str, Any]:
    """Check a checkpoint against its manifest and return its state.

    Raises:
        CheckpointError: Naming the file that is missing, torn or not of the checkpoint, or its layout's number.
    """
    advice = f"remove {path} to go on from the checkpoint before it"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: no manifest, or a torn one ({error}); {advice}") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path / MANIFEST}: a checkpoint of format {found}, where this version of musegen reads format {FORMAT}; "
            "go on with the version that wrote it, or remove the checkpoints to begin anew"
        )
    sums = manifest.get("files")
    if not isinstance(sums, dict) or set(sums) != set(FILES):
        raise CheckpointError(f"{path / MANIFEST}: names other files than {', '.join(FILES)}; {advice}")
    for name in FILES:
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: missing from the checkpoint; {advice}")
        if _checksum(path / name) != sums[name]:
            raise CheckpointError(
                f"{path / name}: torn or altered, its checksum is not that of the manifest; {advice}"
            )
    foreign = sorted(p.name for p in path.iterdir() if p.name not in (*FILES, MANIFEST))
    if foreign:
        raise CheckpointError(f"{path / foreign[0]}: not a file of the checkpoint; move it elsewhere")
    return json.loads((path / FILES[2]).read_text(encoding="utf-8"))


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimiser state in place, in shards if the model is. Call `read_state` first: it
    checks the files.

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
            parameter.copy_(sharding.like(weights[name], parameter))
    names = {id(p): name for name, p in parameters.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}|"
            own = {key[len(prefix) :]: value for key, value in slots.items() if key.startswith(prefix)}
            # A fused optimiser wants its step count on the device of the parameter; others on the CPU.
            device = parameter.device if group.get("fused") else torch.device("cpu")
            optimizer.state[parameter] = {
                key: value.to(device) if key == "step" else sharding.like(value, parameter)
                for key, value in own.items()
            }


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before anything that relies on it is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_reason(error: Exception) -> str:
    # safetensors wraps the system's error in one of its own and keeps only its text.
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
        return "the disk is full; make room and start the same command again, it goes on from the checkpoint before"
    return " ".join(str(error).split())
