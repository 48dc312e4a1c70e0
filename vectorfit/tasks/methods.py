"""What of a pretrained model is trained: VectorFit, its variants, SVFT, and what they are compared with."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import TrainerCallback

import vectorfit as vf
from vectorfit.atomic import PathLike, write_atomically
from vectorfit.plan import Plan
from vectorfit.transformers import AVFCallback
from vectorfit.vectors_file import FORMAT_VERSION, PREFIX, sorted_header

from . import adapters
from .recipe import Recipe

VARIANTS = ("vectorfit", "no_avf", "sigma_a+b", "sigma", "sigma_a")
ADAPTERS = tuple(adapters.BEHIND)
METHODS = (*VARIANTS, "svft", "lora", "adalora", *ADAPTERS, "full", "head")
# The paper gives rates for VectorFit alone. These are where each method's own papers train; a comparison tunes them.
RATES = {"lora": 5e-4, "adalora": 1e-3, "houlsby": 3e-4, "pfeiffer": 3e-4, "full": 2e-5, "head": 1e-3}
INITIAL_BUDGET = 1.5  # AdaLoRA begins with so many times its target, as its paper does
WARM_UP, FINAL = 0.1, 0.3  # of AdaLoRA's run: before ranks go, and after they are settled
PRUNINGS = 100  # times in between at which AdaLoRA's ranks are chosen anew


@dataclass
class Method:
    """What is trained. `trained` is what Trainer gets, which PEFT wraps around `model` for some methods."""

    name: str
    size: int
    model: nn.Module
    trained: nn.Module
    head: tuple[str, ...]  # paths of the modules that the task brings along
    plan: Plan  # of VectorFit on the same model, for what it counts
    callbacks: list[TrainerCallback] = field(default_factory=list)
    base: dict[str, Tensor] = field(default_factory=dict)  # of full fine-tuning, whose file holds the change

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, the head included, by its name in `model`."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def _of_head(self, name: str) -> bool:
        return any(name.startswith(f"{path}.") for path in self.head)

    @property
    def counts(self) -> dict[str, int]:
        """Trained parameters without the head's, the head's, and those of the pretrained model without the head."""
        head = sum(value.numel() for name, value in self.parameters.items() if self._of_head(name))
        whole = sum(value.numel() for path in self.head for value in self.model.get_submodule(path).parameters())
        return {
            "parameters": sum(value.numel() for value in self.parameters.values()) - head,
            "head_parameters": head,
            "base_parameters": self.plan.num_total - whole,
        }

    def state(self) -> dict[str, Tensor]:
        """The trained parameters, the head's too, by name."""
        return {name: value.detach().cpu().contiguous() for name, value in self.parameters.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave. Raises VectorFitError when it is of another training."""
        mine = self.parameters
        if mine.keys() != state.keys() or any(mine[name].shape != state[name].shape for name in mine):
            unlike = sorted(mine.keys() ^ state.keys()) or ["the shapes"]
            raise vf.VectorFitError(f"the file is of another training: {unlike[0]} differs")
        for name, value in state.items():
            mine[name].copy_(value)

    def allocation(self) -> dict[str, Any]:
        """AdaLoRA's own state: importances of the triplets and the ranks chosen; of other methods nothing."""
        if self.name != "adalora":
            return {}
        tuner: Any = self.trained.base_model
        ranks = tuner.rankallocator
        config = tuner.peft_config[tuner.trainable_adapter_name]
        return {"sensitivity": ranks.exp_avg_ipt, "uncertainty": ranks.exp_avg_unc, "ranks": config.rank_pattern}

    def load_allocation(self, saved: Mapping[str, Any]) -> None:
        """Takes up what `allocation` gave."""
        if self.name != "adalora":
            return
        tuner: Any = self.trained.base_model
        ranks = tuner.rankallocator
        ranks.exp_avg_ipt, ranks.exp_avg_unc = saved["sensitivity"], saved["uncertainty"]
        ranks.ipt = dict(saved["sensitivity"])  # only its names count: each update computes it anew
        tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = saved["ranks"]

    def save(self, path: PathLike, base_model: str) -> None:
        """Writes what was trained: VectorFit's own file, or the parameters by name; equal trainings, equal bytes."""
        if self.name in VARIANTS or self.name == "svft":
            vf.save_vectors(self.model, path, base_model=base_model, metadata={"vectorfit.method": self.name})
            return
        tensors = self.state()
        broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
        if broken is not None:
            raise vf.VectorFitError(f"{path}: not written, {broken} holds NaN or infinity")
        if self.name == "full":
            # The head began at random: of it the values themselves count, of all else the change.
            tensors = {
                name: value if self._of_head(name) else (value - self.base[name]).half()
                for name, value in tensors.items()
            }
        own = {"format_version": FORMAT_VERSION, "baseline": self.name, "base_model": base_model}
        header = {"format": "pt", **{PREFIX + key: value for key, value in own.items()}}
        write_atomically(path, sorted_header(save(dict(sorted(tensors.items())), header)))

    def load(self, path: PathLike) -> None:
        """Takes up a file that `save` wrote.

        Raises:
            VectorFitError: damaged, or of another base, method or size.
        """
        if self.name in VARIANTS or self.name == "svft":
            vf.load_vectors(self.model, path)
            return
        try:
            tensors = load_file(Path(path))
        except (OSError, SafetensorError) as error:
            raise vf.VectorFitError(f"{path}: cannot be read ({error}); train it again") from error
        if self.name == "full":
            tensors = {
                name: value if self._of_head(name) else self.base[name] + value.float()
                for name, value in tensors.items()
                if name in self.base
            }
        self.load_state(tensors)


class AdaLoraCallback(TrainerCallback):
    """Shares AdaLoRA's budget out anew; PEFT leaves calling it to the training loop."""

    def __init__(self, tuner: Any) -> None:
        self.tuner = tuner

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Here the gradients, by which importance is judged, are still there.
        self.tuner.update_and_allocate(state.global_step + 1)


def build(model: nn.Module, head: tuple[str, ...], name: str, recipe: Recipe, total_steps: int, seed: int) -> Method:
    """Puts a method into a model, in place. `total_steps` is the run's length, `seed` that of what begins at random.

    Raises:
        VectorFitError: an unknown method, a budget that lacks it, or nothing to adapt.
    """
    if name not in METHODS:
        raise vf.VectorFitError(f"method: got {name!r}, expected one of {', '.join(METHODS)}")
    size = recipe.size(name)
    plan = vf.plan(model, vf.VectorFitConfig(modules_to_save=head))
    method = Method(name, size, model, model, head, plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in VARIANTS or name == "svft":
            _inject_vectors(method, recipe, total_steps)
        elif name in ("lora", "adalora"):
            _inject_lora(method, recipe, total_steps)
        else:
            model.requires_grad_(name == "full")
            if name in ADAPTERS:
                adapters.insert(model, name, size)
    for path in head:
        model.get_submodule(path).requires_grad_(True)
    if not method.parameters:
        raise vf.VectorFitError(f"method: {name} trains nothing, for the task brings no head along; take another")
    if name == "full":
        method.base = {key: value.detach().cpu().clone() for key, value in model.named_parameters()}
    return method


def _inject_vectors(method: Method, recipe: Recipe, total_steps: int) -> None:
    frame: dict[str, Any] = {"modules_to_save": method.head, "bias": recipe.bias}
    if method.name == "svft":
        frame |= {"variant": "sigma", "pattern": "random", "pattern_width": method.size}
    else:
        frame |= {"variant": method.name}
    vf.inject(method.model, vf.VectorFitConfig(**frame))
    if method.name == "vectorfit":
        when = recipe.schedule(total_steps)
        method.callbacks.append(AVFCallback(when.first_step, when.every, when.num_freezes, top_k=recipe.avf_top_k))


def _inject_lora(method: Method, recipe: Recipe, total_steps: int) -> None:
    """LoRA or AdaLoRA on the layers that VectorFit adapts."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    paths = [layer.path for layer in method.plan.layers]
    targets = "|".join(map(re.escape, paths))  # of a list, PEFT takes every layer whose path ends so
    config: Any
    if method.name == "lora":
        config = LoraConfig(r=method.size, lora_alpha=method.size, target_modules=targets)
    else:
        average = method.size / recipe.adapted_matrices
        initial = max(math.ceil(INITIAL_BUDGET * average), math.floor(average) + 1)
        warm_up, final = round(WARM_UP * total_steps), round(FINAL * total_steps)
        config = AdaLoraConfig(
            init_r=initial,
            target_r=max(1, round(average)),
            lora_alpha=initial,
            tinit=warm_up,
            tfinal=final,
            deltaT=max(1, (total_steps - warm_up - final) // PRUNINGS),
            total_step=max(total_steps, warm_up + final + 1),
            target_modules=targets,
        )
    method.trained = get_peft_model(method.model, config)
    if method.name == "adalora":
        tuner: Any = method.trained.base_model
        # PEFT knows whole average ranks only; b(T) may be less than one a matrix.
        tuner.rankallocator.target_bgt = max(1, round(average * len(paths)))
        method.callbacks.append(AdaLoraCallback(tuner))
