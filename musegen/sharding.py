"""Weights, gradients and optimiser state in shards over the processes (FSDP2), and whole again to be saved.

accelerate makes the shards; what it leaves to a loop is here. The arithmetic is that of whole weights: they are
gathered in float32 and computed with as `precision` says, and gradients are summed in float32. Whoever reads a
tensor's whole value takes part with all processes, in the same order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from musegen.errors import ConfigError

_OTHERS = ("DEEPSPEED", "MEGATRON_LM")  # what else splits a model, by accelerate's name
# FSDP2 tells everybody whose module returns a view not to change it in place, which no model here does.
_VIEWS = r"FSDP2-wrapped module .* returned a view tensor"


def sharding_plugin() -> Any | None:
    """What `accelerate launch` was told of shards, as accelerate's plugin; None if nothing.

    Raises:
        ConfigError: If it was told to split the model in another way than FSDP2.
    """
    for name in _OTHERS:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ConfigError(f"launched with {name}: to shard the weights use scripts/accelerate/fsdp.yaml")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("launched with FSDP1: set fsdp_version: 2, as scripts/accelerate/fsdp.yaml does")
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy=MixedPrecisionPolicy())
    if plugin.activation_checkpointing:
        raise ConfigError("launched with fsdp_activation_checkpointing: not supported; lower micro_batch_size instead")
    return plugin


def take_up(accelerator: Any, plugin: Any | None) -> None:
    """Have an `Accelerator` shard where accelerate by itself does not: over processes on CPUs, by gloo, and in the
    second run of a process."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    state = accelerator.state
    if plugin is not None and state.distributed_type in (DistributedType.MULTI_CPU, DistributedType.FSDP):
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
        # Where accelerate keeps it too: whatever makes an `AcceleratorState` later takes it from there.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def prepare(accelerator: Any, model: torch.nn.Module) -> torch.nn.Module:
    """The model as a loop calls it. Make the optimiser afterwards: the parameters of a sharded model are new ones.

    Args:
        accelerator: An `accelerate.Accelerator`.
        model: On any device. If it is sharded, then in place, by the layers that its class names in
            `_no_split_modules`.
    """
    if not accelerator.is_fsdp2:
        return accelerator.prepare_model(model)
    from accelerate.utils import fsdp2_prepare_model

    warnings.filterwarnings("ignore", message=_VIEWS)
    return fsdp2_prepare_model(accelerator, model)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or all of one that is in shards: then all processes have to ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole_on_cpu(
    tensors: Iterable[tuple[str, torch.Tensor]], *, keep: bool = True
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors whole, one after the other, so that a device holds one of them at a time.

    Args:
        tensors: By name.
        keep: Yield nothing if false: this process only gives its shards.
    """
    for name, tensor in tensors:
        full = whole(tensor.detach()).cpu()  # kept or not: what is gathered has to be waited for by all
        if keep:
            yield name, full.contiguous()


def whole_weights(model: torch.nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """What `save_pretrained` takes as `state_dict`: whole, on the CPU, a tied weight once.

    Args:
        model: In shards; all processes have to come here.
        keep: Return nothing if false: this process only gives its shards.
    """
    once: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(whole_on_cpu(once.values(), keep=keep))


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor: on the parameter's device, and in shards if that is."""
    if not hasattr(parameter, "full_tensor") or value.shape != parameter.shape:
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
