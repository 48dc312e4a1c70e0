"""A model split among processes by FSDP2 (`--shard`): for models that one card cannot hold."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training import methods

from .run_options import Options

FOLDER = "sharded"  # in a checkpoint
# accelerate's ways to split a model, the variable that tells of them, and why they are refused.
REFUSED = {
    "DeepSpeed": ("ACCELERATE_USE_DEEPSPEED", "it steps inside backward, where nothing can be frozen any more"),
    "Megatron-LM": ("ACCELERATE_USE_MEGATRON_LM", "it replaces the layers that hold the vectors"),
    "FSDP": ("ACCELERATE_USE_FSDP", "as accelerate sets it up, it leaves the factors whole on every card"),
}
T = TypeVar("T")


def check(options: Options) -> None:
    """Refuses ways to split a model that do not work, each with its reason.

    Raises:
        VectorFitError: accelerate was asked for DeepSpeed, Megatron-LM or its own FSDP; or `--shard` with a method that
            has no vectors.
    """
    for name, (variable, why) in REFUSED.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise VectorFitError(f"{name}: {why}; start with accelerate's plain settings, and give --shard to split")
    if options.shard and not methods.find(options.method).trains_vectors:
        raise VectorFitError(
            f"--shard: {options.method} trains no vectors, and was not tried; use DDP, without --shard"
        )


def mesh() -> DeviceMesh | None:
    """All processes in a row; None where there is one."""
    state = PartialState()
    if state.num_processes == 1:
        return None
    device: DeviceMesh = init_device_mesh(state.device.type, (state.num_processes,))
    return device


def in_turn(make: Callable[[], T]) -> T:
    """Calls `make` in each process of this machine, one after the other: never two full copies in main memory.

    What the first one factorises, the others read from the cache.
    """
    state, made = PartialState(), []
    for index in range(int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))):
        if state.local_process_index == index:
            made.append(make())
        state.wait_for_everyone()
    return made[0]


def shard(model: nn.Module, processes: DeviceMesh | None) -> None:
    """Splits an adapted model in place: weights, factors and vectors, block by block.

    The blocks are the modules in lists. Only a part of each stays; a block is whole while it computes.
    """
    if processes is None:
        return
    vf.shard_factors(model)
    for module in reversed(list(model.modules())):  # inner ones first, as fully_shard asks
        if isinstance(module, nn.ModuleList):
            for block in module:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=processes)
    fully_shard(model, mesh=processes)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has split the model."""
    return isinstance(model, FSDPModule)


def save_checkpoint(folder: Path, model: nn.Module, parameters: dict[str, nn.Parameter], optimizer: Any) -> None:
    """Writes parameters and optimizer, each process its own part."""
    state = {"parameters": parameters, "optimizer": get_optimizer_state_dict(model, optimizer)}
    save(state, checkpoint_id=folder / FOLDER, no_dist=PartialState().num_processes == 1)


def load_parameters(folder: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Loads the parameters of a checkpoint, of any number of processes, in place.

    Raises:
        VectorFitError: it is of another training.
    """
    known = FileSystemReader(folder / FOLDER).read_metadata().state_dict_metadata
    saved = {name.removeprefix("parameters."): entry for name, entry in known.items() if name.startswith("parameters.")}
    sizes = {name: tuple(getattr(entry, "size", ())) for name, entry in saved.items()}
    own = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if sizes != own:
        unlike = sorted(name for name in sizes.keys() | own.keys() if sizes.get(name) != own.get(name))
        raise VectorFitError(f"{folder}: of another training, {unlike[0]} differs")
    _load({"parameters": {name: parameter.data for name, parameter in parameters.items()}}, folder)


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads the optimizer's state of a checkpoint, of any number of processes."""
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    _load(state, folder)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def _load(state: dict[str, Any], folder: Path) -> None:
    load(state, checkpoint_id=folder / FOLDER, no_dist=PartialState().num_processes == 1)
