"""Adaptive Vector Freezing under transformers' Trainer."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import TrainerCallback  # noqa: TID251 - this module is the edge to Trainer
from transformers.trainer_callback import ExportableState  # noqa: TID251

from .errors import VectorFitError
from .freezing import BETA, AdaptiveVectorFreezing
from .record import vector_parameters
from .schedule import TOP_K, AvfSchedule, avf_schedule

# The hook on each vector that is being trained: one at most, whatever became of the training before.
_HOOKS: Any = WeakTensorKeyDictionary()


class AVFCallback(TrainerCallback, ExportableState):
    """Freezes vectors while Trainer trains; for models adapted by `vectorfit.inject` or through PEFT.

    The frozen set is chosen at the start of an update. From then on the gradients of its vectors are zero, so that
    they do not count in the norm by which Trainer clips before it lets callbacks see the gradients, and under DDP every
    process still has one; when the optimizer steps they are None. Trainer's checkpoints keep the freezing's state.

    Args:
        first_step, every, num_freezes: the schedule (t_i, t_f, n_f) in optimizer updates; without all three, the
            paper's guideline for the length of the run.
        top_k, beta: as for `AdaptiveVectorFreezing`.
        freezing: makes what chooses the vectors, from the model and the settings above by their names. A checkpoint
            does not hold it: with Trainer's `restore_callback_states_from_checkpoint` the choice is AVF's again.

    Raises:
        VectorFitError: the model has no vectors, a value is out of range, or a checkpoint has no state of the freezing.
    """

    def __init__(
        self,
        first_step: int | None = None,
        every: int | None = None,
        num_freezes: int | None = None,
        top_k: int = TOP_K,
        beta: float = BETA,
        freezing: Callable[..., AdaptiveVectorFreezing] = AdaptiveVectorFreezing,
    ) -> None:
        given = [value is not None for value in (first_step, every, num_freezes)]
        if any(given) and not all(given):
            raise VectorFitError("AVFCallback: expected first_step, every and num_freezes together, or none of them")
        self.first_step, self.every, self.num_freezes = first_step, every, num_freezes
        self.top_k, self.beta, self.freezing = top_k, beta, freezing
        self.avf: AdaptiveVectorFreezing | None = None
        self.saved: dict[str, Any] | None = None
        self._vectors: list[Tensor] = []

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's trainer_state.json."""
        names = ("first_step", "every", "num_freezes", "top_k", "beta")
        saved = self.saved if self.avf is None else self.avf.state_dict()
        return {"args": {name: getattr(self, name) for name in names}, "attributes": {"saved": saved}}

    def schedule(self, total_steps: int) -> AvfSchedule:
        """When vectors are frozen in a run of so many updates."""
        if self.first_step is None or self.every is None or self.num_freezes is None:
            return avf_schedule(total_steps)
        return AvfSchedule(self.first_step, self.every, self.num_freezes)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if getattr(args, "deepspeed", None):
            raise VectorFitError(
                "AVFCallback: DeepSpeed steps inside backward, where nothing can be frozen any more; use DDP or FSDP2"
            )
        schedule = self.schedule(state.max_steps)
        self.avf = self.freezing(
            model,
            first_step=schedule.first_step,
            every=schedule.every,
            num_freezes=schedule.num_freezes,
            top_k=self.top_k,
            beta=self.beta,
        )
        if state.global_step:
            self.avf.load_state_dict(self._saved_state(state))
        for name, vector in vector_parameters(model).items():
            earlier = _HOOKS.pop(vector, None)  # of a training that was interrupted
            if earlier is not None:
                earlier.remove()
            _HOOKS[vector] = vector.register_hook(partial(self._without_frozen, name))  # type: ignore[no-untyped-call]
            self._vectors.append(vector)

    def _saved_state(self, state: Any) -> dict[str, Any]:
        """The state of the freezing in the checkpoint that training resumes from."""
        states = state.stateful_callbacks.get(type(self).__name__, {})
        saved = (states[0] if isinstance(states, list) else states).get("attributes", {}).get("saved") or self.saved
        if not saved:
            raise VectorFitError(
                f"the checkpoint of step {state.global_step} has no state of the freezing: it was trained without "
                "AVFCallback; resume without it, or start a new training"
            )
        freezing_state: dict[str, Any] = saved
        return freezing_state

    def _without_frozen(self, name: str, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if self.avf is not None and name in self.avf.frozen else gradient

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.avf is not None:
            self.avf.step(state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.avf is not None:
            self.avf.step(state.global_step + 1)  # the same set: now the gradients go

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for vector in self._vectors:
            if vector in _HOOKS:
                _HOOKS.pop(vector).remove()
        self._vectors = []
        if self.avf is not None and state.global_step < self.avf.schedule.first_step and self.avf.schedule.num_freezes:
            warnings.warn(
                f"Adaptive Vector Freezing was configured but never happened: training ended after {state.global_step} "
                f"updates, the first freezing comes at {self.avf.schedule.first_step}; set first_step lower",
                stacklevel=2,
            )
