"""What a training run is told: a dataclass read from YAML, and the schedule and precision that follow from it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
import yaml

from musegen.errors import ConfigError


@dataclasses.dataclass
class TrainingConfig:
    """What `musegen train` reads from YAML.

    Args:
        corpus: Folder of the corpus.
        tokenizer: Folder of the tokenizer.
        out: Folder that becomes the model.
        model: A preset of `musegen.models.PRESETS`, or a folder or Hub name to go on from.
        model_settings: Settings that replace those of the preset; for a folder, its dropouts.
        block_size: Tokens a block, and the longest context of a fresh GPT; of a loaded one, no more than its own.
        batch_size: Blocks a step, over all processes.
        micro_batch_size: Blocks a forward pass and process; by default all of a process's blocks at once.
        steps: Optimiser steps.
        optimizer: `adamw`, or `muon`: Muon for the matrices inside, AdamW for the rest.
        learning_rate: At its height.
        final_learning_rate: As a share of the height, at the end of the cosine.
        warmup: Steps over which the learning rate rises.
        weight_decay: Of AdamW, on matrices only.
        betas: Of AdamW.
        clip: Norm to which gradients are clipped.
        transpose: Move each piece to another key each epoch.
        control_dropout: How often each part of a header is left out (see `musegen.blocks`).
        infill: Share of blocks with a gap that is filled at the end.
        composers: Names, or words of them (`Mozart`); only their pieces are read, and held in memory. None for all.
        streaming: Read the corpus while training instead of holding it in memory; `auto` where its training shards
            are above 64 MiB. A streamed run has other batches for another number of processes.
        shuffle_buffer: Blocks that a streamed run shuffles at a time.
        workers: Processes that make blocks ahead, for each training process; 0 makes them in it. The batches are
            the same for any number.
        precision: `auto` (bf16 where the device computes in it, else no), `bf16` or `no`.
        compile: Compile the model by `torch.compile`: about a minute at the beginning, and a C++ compiler is needed.
            For a GPT on a GPU; the steps of an LSTM gain nothing.
        eval_every: Steps between validations; the best weights are kept.
        save_every: Steps between checkpoints.
        patience: Validations without gain after which training ends; 0 for never.
        seed: Of weights, order, keys and dropout.
    """

    corpus: str = ""
    tokenizer: str = ""
    out: str = ""
    model: str = "gpt-tiny"
    model_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    block_size: int = 512
    batch_size: int = 8
    micro_batch_size: int | None = None
    steps: int = 1000
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.1
    warmup: int = 50
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    transpose: bool = True
    control_dropout: float = 0.1
    infill: float = 0.1
    composers: tuple[str, ...] = ()
    streaming: bool | str = "auto"
    shuffle_buffer: int = 1024
    workers: int = 1
    precision: str = "auto"
    compile: bool = False
    eval_every: int = 100
    save_every: int = 100
    patience: int = 0
    seed: int = 0

    def __post_init__(self):
        self.betas = tuple(self.betas)
        self.composers = (self.composers,) if isinstance(self.composers, str) else tuple(self.composers)
        for name in ("block_size", "batch_size", "steps", "eval_every", "save_every", "shuffle_buffer"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: a whole number of at least 1 is needed, not {value!r}")
        for name in ("learning_rate", "clip"):
            if not isinstance(getattr(self, name), (int, float)) or getattr(self, name) <= 0:
                raise ConfigError(f"{name}: a number above 0 is needed, not {getattr(self, name)!r}")
        if self.streaming not in (True, False, "auto"):
            raise ConfigError(f"streaming: true, false or auto, not {self.streaming!r}")
        if self.composers and self.streaming is True:
            raise ConfigError("streaming: true reads all of a corpus; with `composers` leave it out")
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or not 0 <= self.workers <= 64:
            raise ConfigError(f"workers: a whole number from 0 to 64, not {self.workers!r}")
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer: adamw or muon, not {self.optimizer!r}")
        if not isinstance(self.compile, bool):
            raise ConfigError(f"compile: true or false, not {self.compile!r}")
        if self.precision not in ("auto", "bf16", "no"):
            raise ConfigError(f"precision: auto, bf16 or no, not {self.precision!r}")

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> TrainingConfig:
        """Read a configuration; paths in it are relative to the current folder.

        Raises:
            ConfigError: Naming the file and the setting.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:160]})") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: settings are needed, one a line, as `name: value`")
        values.update(overrides)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"{path}: no setting {', '.join(unknown)}; the settings are {', '.join(known)}")
        try:
            return cls(**values)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from None


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to the final share; `step` counts from 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    low = config.final_learning_rate
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def resolve_precision(precision: str) -> str:
    """`auto` to what this device computes fast: bf16 where it has instructions for it."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    checks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return "bf16" if any(check is not None and check() for check in checks) else "no"
