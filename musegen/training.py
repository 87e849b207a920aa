"""The one Accelerate loop that trains every model of the package.

One process or many, one device or none: the same global batches of pieces in memory, the same loss; a corpus that is
streamed gives each process batches of its own (`musegen.blocks.parquet`). Weights are whole in each process, or in
shards (`musegen.sharding`); what is saved is the same. The loss of a step is the sum
over the targets of all processes and micro-batches divided by their number, in nats a token. Dropout is seeded
by the step and the process, so that a resumed run draws what an uninterrupted one draws.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from musegen import checkpointing, sharding
from musegen.blocks import ShardedPieces, position_ids
from musegen.controls import TASK, task_params
from musegen.errors import CheckpointError, ConfigError, TrainingError
from musegen.layout import StreamLayout
from musegen.likelihood import Likelihood, context_of, score_pieces
from musegen.optimizers import make_optimizer
from musegen.starting import starting_model
from musegen.tokenizer import MusicTokenizer
from musegen.training_config import TrainingConfig, learning_rate_at, resolve_precision
from musegen.training_data import (
    Pieces,
    ScoredPiece,
    composers_of,
    gather_positions,
    load_training_data,
    make_stream,
    position_of,
    run_signature,
)

HISTORY_FILE = "history.jsonl"
DONE_FILE = "training.json"
_PADDING_WARNING = "warn_if_padding_and_no_attention_mask"  # a method of transformers' models


@dataclasses.dataclass
class TrainingResult:
    """What training came to.

    Args:
        history: One row a validation: `step`, `train_nats`, `validation_nats`, `bits_per_note`, `learning_rate`.
        best_step: Of the weights that were kept.
        bits_per_note: Of these, on the validation pieces.
        resumed_from: The step at which this run took up; 0 for the beginning.
    """

    history: list[dict[str, float]]
    best_step: int
    bits_per_note: float
    resumed_from: int


class Trainer:
    """Train one model; `run` does all.

    Args:
        model: Fresh, or to go on from.
        tokenizer: Saved beside the weights.
        train_pieces: The training pieces, or a split of a corpus to stream.
        validation_pieces: Ids with BOS and EOS, and notes, of each validation piece.
        config: `corpus` and `tokenizer` are not read here.
        accelerator: An `accelerate.Accelerator`; made by `make_accelerator` by default.
        progress: Show a bar.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: MusicTokenizer,
        train_pieces: Pieces,
        validation_pieces: Sequence[ScoredPiece],
        config: TrainingConfig,
        *,
        accelerator=None,
        progress: bool = True,
    ):
        self.config, self.tokenizer = config, tokenizer
        self.accelerator = accelerator or make_accelerator(config)
        self.progress = progress and self.accelerator.is_main_process
        self.validation = list(validation_pieces)
        self.layout = StreamLayout(tokenizer)
        self.pieces = train_pieces
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.stream = make_stream(train_pieces, tokenizer, config, rank=rank, world=world)
        self.bare = model
        context = context_of(model)
        if context is not None and config.block_size > context:
            raise ConfigError(
                f"block_size {config.block_size}: the model {config.model} has {context} positions at most"
            )
        self.takes_positions = context is not None
        self.takes_resets = "resets" in inspect.signature(model.forward).parameters
        for module in model.modules():
            if hasattr(module, _PADDING_WARNING):
                # It reads tokens back from the device in every pass, which makes a GPU wait; blocks have no padding.
                setattr(module, _PADDING_WARNING, lambda *_: None)
        self.model = sharding.prepare(self.accelerator, model)
        self.optimizer = make_optimizer(model, config)
        if config.compile:
            self.model = torch.compile(self.model)  # `bare` keeps the same weights under their own names
        self.out = Path(config.out)
        self.step, self.history, self.best = 0, [], math.inf
        self.best_step = self.stale = 0
        self._window: list[torch.Tensor] = []

    def run(self) -> TrainingResult:
        """Train to the end, or from the newest checkpoint on; the best weights lie in `out` afterwards.

        Raises:
            CheckpointError: If the newest checkpoint is torn, or of another run, or the next cannot be saved.
            TrainingError: If the loss is no number any more.
        """
        from tqdm.auto import tqdm

        resumed = self._resume()
        config = self.config
        bar = tqdm(total=config.steps, initial=self.step, desc=config.model, unit="step", disable=not self.progress)
        self.model.train()
        while self.step < config.steps and not (config.patience and self.stale >= config.patience):
            self._window.append(self._train_step(next(self.stream)))
            self.step += 1
            bar.update()
            last = self.step == config.steps
            if self.step % config.eval_every == 0 or last:
                row = self._validate()
                bar.set_postfix(train=f"{row['train_nats']:.3f}", bits_per_note=f"{row['bits_per_note']:.2f}")
            if self.step % config.save_every == 0 or last:
                self._save()
        bar.close()
        self.stream.close()
        self.accelerator.wait_for_everyone()
        result = TrainingResult(self.history, self.best_step, self._best_bits(), resumed)
        if self.accelerator.is_main_process:
            self._finish(result)
        self.accelerator.wait_for_everyone()
        return result

    def _train_step(self, blocks: np.ndarray) -> torch.Tensor:
        """One optimiser step on a batch (batch, block_size) of the stream; returns its loss, nats a token."""
        config, accelerator = self.config, self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 1009 + rank)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config)
        own = blocks if isinstance(self.pieces, ShardedPieces) else blocks[rank::world]
        targets = config.batch_size * (blocks.shape[1] - 1)
        size = min(config.micro_batch_size or len(own), len(own))
        parts = [own[i : i + size] for i in range(0, len(own), size)]
        total = torch.zeros((), device=accelerator.device)
        for i, part in enumerate(parts):
            last = i + 1 == len(parts)
            with accelerator.no_sync(self.model) if not last else _nothing(), accelerator.autocast():
                # Processes average their gradients, so each counts its sum `world` times.
                loss = self.model(**self._inputs(part), num_items_in_batch=targets).loss * world
                accelerator.backward(loss)
            total += loss.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _inputs(self, blocks: np.ndarray) -> dict[str, torch.Tensor]:
        ids = self._moved(blocks)
        inputs = {"input_ids": ids, "labels": ids, "use_cache": False}
        if self.takes_positions:
            # Always, though blocks of one window each could do without: transformers asks the device whether they
            # need a mask, and on a CPU attention takes no longer with one (docs/log.md).
            inputs["position_ids"] = self._moved(position_ids(blocks, np.flatnonzero(self.layout.opens)))
            inputs["attention_mask"] = packed_mask(inputs["position_ids"])
        elif self.takes_resets:
            opens = self.layout.opens[blocks]
            opens[:, 0] = False
            if opens.any():  # only blocks with two windows need to tell them apart
                inputs["resets"] = torch.from_numpy(opens)
        return inputs

    def _moved(self, values: np.ndarray) -> torch.Tensor:
        tensor, device = torch.from_numpy(np.ascontiguousarray(values)), self.accelerator.device
        # Only from pinned memory does a copy to a GPU go on while the step is being launched.
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

    def _validate(self) -> dict[str, float]:
        mean = float(self._losses().mean())
        self._window = []
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        # Shards are gathered in every pass, so that all processes have to make the same ones.
        together = self.accelerator.is_fsdp2
        pieces = self.validation if together else self.validation[rank::world]
        with self.accelerator.autocast():
            own = score_pieces(self.bare, pieces, context=self.config.block_size, layout=self.layout)
        sums = torch.tensor([own.nats, own.tokens, own.notes], dtype=torch.float64, device=self.accelerator.device)
        sums = self.accelerator.reduce(sums, reduction="mean" if together else "sum").tolist()
        score = Likelihood(sums[0], round(sums[1]), round(sums[2]))
        self._check(math.isfinite(score.nats))
        row = {
            "step": self.step,
            "train_nats": mean,
            "validation_nats": score.nats_per_token,
            "bits_per_note": score.bits_per_note,
            "learning_rate": learning_rate_at(self.step - 1, self.config),
        }
        self.history.append(row)
        better = score.nats_per_token < self.best
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best, self.best_step = score.nats_per_token, self.step
        main = self.accelerator.is_main_process
        if better:
            weights = sharding.whole_weights(self.bare, keep=main) if together else None
        if main:
            if better:
                save_model(self.bare, self.tokenizer, self.out, weights)
            write_text(self.out / HISTORY_FILE, "".join(json.dumps(r) + "\n" for r in self.history))
            self._board(row)
        return row

    def _board(self, row: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.out / "tensorboard"), purge_step=row["step"]) as writer:
            for name in ("train_nats", "validation_nats", "bits_per_note", "learning_rate"):
                writer.add_scalar(name, row[name], row["step"])

    def _losses(self) -> torch.Tensor:
        """Losses of the steps since the last validation, (steps,), over all processes."""
        if not self._window:
            return torch.zeros(0)
        losses = self.accelerator.reduce(torch.stack(self._window), reduction="mean")
        self._check(bool(losses.isfinite().all()))
        return losses

    def _check(self, finite: bool) -> None:
        # Before anything is saved, so that the newest checkpoint and the best weights stay sound.
        if not finite:
            raise TrainingError(
                f"{self.config.out}: the loss is no number any more, at some step up to {self.step}; "
                "lower learning_rate or lengthen warmup, and remove the checkpoints to begin anew"
            )

    def _best_bits(self) -> float:
        rows = [row["bits_per_note"] for row in self.history if row["step"] == self.best_step]
        return rows[0] if rows else math.nan

    def _state(self, positions: list[list[int]]) -> dict[str, Any]:
        return {
            "step": self.step,
            "positions": positions,
            "history": self.history,
            "best": self.best if math.isfinite(self.best) else None,
            "best_step": self.best_step,
            "stale": self.stale,
            "window": [float(x) for x in self._window],  # of all processes, see `_save`
            "run": run_signature(self.config, self.tokenizer, self.pieces),
        }

    def _save(self) -> None:
        self._window = list(self._losses())
        state = self._state(gather_positions(self.stream, self.accelerator))
        together = self.accelerator.is_fsdp2
        # Without shards the other processes have nothing to give.
        main = self.accelerator.is_main_process
        tensors = checkpointing.snapshot(self.bare, self.optimizer, keep=main) if main or together else None
        if main:
            checkpointing.save_checkpoint(self.out / "checkpoints", tensors, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        found = checkpointing.checkpoints(self.out / "checkpoints")
        if not found:
            return 0
        state = checkpointing.read_state(found[-1])
        if state["run"] != run_signature(self.config, self.tokenizer, self.pieces):
            raise CheckpointError(
                f"{found[-1]}: of a run with other settings or another corpus; remove it or name another `out`"
            )
        checkpointing.load_checkpoint(found[-1], self.bare, self.optimizer)
        self.step, self.history, self.stale = state["step"], state["history"], state["stale"]
        self.best = math.inf if state["best"] is None else state["best"]
        self.best_step = state["best_step"]
        self.stream.position = position_of(state["positions"], self.stream, str(found[-1]))
        self._window = [torch.tensor(x, device=self.accelerator.device) for x in state["window"]]
        return self.step

    def _finish(self, result: TrainingResult) -> None:
        done = {**dataclasses.asdict(result), "config": dataclasses.asdict(self.config)}
        done["processes"] = self.accelerator.num_processes
        done["parameters"] = sum(p.numel() for p in self.bare.parameters())
        write_json(self.out / DONE_FILE, done)


def packed_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """Which tokens a token may look at: those before it in its own piece or window, and itself.

    transformers would build the same mask from the positions, but asks the device first whether it needs one.

    Args:
        position_ids: Beginning anew at 0 with every piece or window, int64 (batch, time).

    Returns:
        bool (batch, 1, time, time).
    """
    piece = (position_ids == 0).cumsum(1)  # (batch, time)
    return (piece[:, :, None] == piece[:, None, :]).tril()[:, None]  # (batch, 1, time, time)


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False


def make_accelerator(config: TrainingConfig):
    """The `Accelerator` for a configuration; it finds processes and devices by itself.

    Raises:
        ConfigError: If it was launched to split the model in a way that this loop does not know.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # accelerate keeps the precision of a process's first run for good; a second run may ask for another.
    # The process group, which is in PartialState, stays.
    AcceleratorState._reset_state(reset_partial_state=False)
    plugin = sharding.sharding_plugin()
    accelerator = Accelerator(
        mixed_precision=resolve_precision(config.precision), cpu=not torch.cuda.is_available(), fsdp_plugin=plugin
    )
    sharding.take_up(accelerator, plugin)
    return accelerator


def save_model(model, tokenizer: MusicTokenizer, out: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write model and tokenizer as a Hub folder; each file is replaced only when the new one is whole.

    Args:
        model: Of transformers.
        tokenizer: Saved beside it.
        out: The folder.
        weights: By name, in place of the model's own, which may be in shards.
    """
    aside = out / ".partial"
    aside.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(aside, state_dict=weights)
    tokenizer.save_pretrained(aside)
    for file in sorted(aside.iterdir()):
        file.replace(out / file.name)
    aside.rmdir()


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside, then rename."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file aside, then rename."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def train_from_config(config: TrainingConfig, *, progress: bool = True) -> TrainingResult:
    """Train as a configuration says: load the corpus and the tokenizer, build the model, run.

    Raises:
        MusegenError: Naming the setting, the folder or the file that is wrong.
    """
    from musegen.tokenizer import load_tokenizer

    for name in ("corpus", "tokenizer", "out"):
        if not getattr(config, name):
            raise ConfigError(f"{name}: a folder is needed")
    tokenizer = load_tokenizer(config.tokenizer)
    data = load_training_data(config, tokenizer, progress=progress)
    torch.manual_seed(config.seed)
    model = starting_model(config, tokenizer)
    if len(found := composers_of(config, tokenizer)) == 1:
        # Asked for nothing, it then writes as the composer that it was tuned to.
        model.config.task_specific_params = {TASK: {**task_params(model), "composer": found[0]}}
    return Trainer(model, tokenizer, data.train, data.validation, config, progress=progress).run()
