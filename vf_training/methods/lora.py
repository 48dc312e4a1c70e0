"""LoRA and AdaLoRA, through PEFT, on the linear layers that VectorFit adapts."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vectorfit.fingerprint import canonical_name
from vectorfit.layers import layer_for
from vectorfit.modules import Models, join

from .change_file import ChangeFile, add
from .method import Options, Trained, modules_of

INITIAL_BUDGET = 1.5  # AdaLoRA begins with this many times its target, as its paper does
WARM_UP, FINAL = 0.1, 0.3  # shares of AdaLoRA's run: before ranks are cut, and after they are settled
PRUNINGS = 100  # times in between at which AdaLoRA's ranks are chosen anew


class Lora(ChangeFile):
    """dW = B A. Shapes: A [r, in], B [out, r]. The file holds "PATH.lora_A" and "PATH.lora_B"."""

    needs_whole_base = False

    def add_parameters(self, trained: Trained, options: Options) -> None:
        from peft import get_peft_model

        for prefix, model in trained.models.items():
            paths = _adapted_paths(trained, prefix, model)
            if paths:
                exactly = "|".join(map(re.escape, paths))  # of a list, PEFT takes every layer whose path ends so
                trained.wrapped[prefix] = get_peft_model(model, self._config(trained, options, exactly))

    def _config(self, trained: Trained, options: Options, targets: str) -> Any:
        from peft import LoraConfig

        init: Any = "gaussian" if options.gaussian_lora else True
        return LoraConfig(r=trained.size, lora_alpha=trained.size, target_modules=targets, init_lora_weights=init)

    def contents(self, trained: Trained) -> dict[str, Tensor]:
        factors = {}
        for name, parameter in self.parameters(trained).items():
            if not trained.in_head(name):
                path, factor = name.removesuffix(".weight").removesuffix(".default").rsplit(".", 1)
                factors[f"{path}.{factor}"] = parameter.detach().float().cpu()
        return factors

    @torch.no_grad()
    def apply(self, models: Models, tensors: Mapping[str, Tensor], strength: float) -> Callable[[], None]:
        modules = {canonical_name(path): module for path, module in modules_of(models).items()}
        changes = {}
        for path in sorted({name.rpartition(".")[0] for name in tensors}):
            A, B = tensors[f"{path}.lora_A"].float(), tensors[f"{path}.lora_B"].float()
            E = tensors.get(f"{path}.lora_E")  # [r, 1], AdaLoRA's singular values
            change = B @ (A if E is None else E.float() * A)
            module = modules.get(path)
            changes[f"{path}.weight"] = change if module is None else _as_stored(change, module)
        return add(models, changes, strength)


def _adapted_paths(trained: Trained, prefix: str, model: nn.Module) -> list[str]:
    """The layers of one model that VectorFit would adapt, by their paths in it."""
    layers = {layer.path for layer in trained.plan.layers}
    return [path for path, _ in model.named_modules() if join(prefix, path) in layers]


def _as_stored(change: Tensor, module: nn.Module) -> Tensor:
    """A change [out, in] in the layout of a layer's weight: transformers' Conv1D keeps it transposed."""
    kind = layer_for(module)
    return change.T if kind is not None and kind.__name__ == "VectorFitConv1D" else change


class AdaLora(Lora):
    """dW = B diag(E) A with ranks chosen while it trains. Shapes: A [r, in], B [out, r], E [r, 1].

    `size` is the budget b(T): the ranks in all of the paper's model. PEFT's factor alpha / (r + 1e-5) is in the file's
    "PATH.lora_E" already.
    """

    def add_parameters(self, trained: Trained, options: Options) -> None:
        counts = [len(_adapted_paths(trained, prefix, model)) for prefix, model in trained.models.items()]
        super().add_parameters(trained, options)
        average = trained.size / options.adapted_matrices
        for count, tuner in zip(filter(None, counts), _tuners(trained), strict=True):
            # PEFT knows whole average ranks only; b(T) may be less than one a matrix.
            tuner.rankallocator.target_bgt = max(1, round(average * count))

    def _config(self, trained: Trained, options: Options, targets: str) -> Any:
        from peft import AdaLoraConfig

        average, steps = trained.size / options.adapted_matrices, options.total_steps
        initial = max(math.ceil(INITIAL_BUDGET * average), math.floor(average) + 1)
        warm_up, final = round(WARM_UP * steps), round(FINAL * steps)
        return AdaLoraConfig(
            init_r=initial,
            target_r=max(1, round(average)),
            lora_alpha=initial,
            tinit=warm_up,
            tfinal=final,
            deltaT=max(1, (steps - warm_up - final) // PRUNINGS),
            total_step=max(steps, warm_up + final + 1),
            target_modules=targets,
        )

    def contents(self, trained: Trained) -> dict[str, Tensor]:
        factors = super().contents(trained)
        for prefix, model in trained.models.items():
            for path, module in model.named_modules():
                name = f"{join(prefix, path)}.lora_E"
                if name in factors:
                    layer: Any = module
                    rank = float(layer.ranknum["default"])
                    factors[name] = factors[name] * (layer.scaling["default"] / (rank + 1e-5))
        return factors

    def after_update(self, trained: Trained, step: int) -> None:
        for tuner in _tuners(trained):
            tuner.update_and_allocate(step)

    def state(self, trained: Trained) -> dict[str, Any]:
        """The importances of the triplets and the ranks chosen."""
        (tuner,) = _tuners(trained)
        ranks, config = tuner.rankallocator, tuner.peft_config[tuner.trainable_adapter_name]
        return {"sensitivity": ranks.exp_avg_ipt, "uncertainty": ranks.exp_avg_unc, "ranks": config.rank_pattern}

    def load_state(self, trained: Trained, state: Mapping[str, Any]) -> None:
        (tuner,) = _tuners(trained)
        ranks = tuner.rankallocator
        ranks.exp_avg_ipt, ranks.exp_avg_unc = state["sensitivity"], state["uncertainty"]
        ranks.ipt = dict(state["sensitivity"])  # only its names count: each update computes it anew
        tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = state["ranks"]


def _tuners(trained: Trained) -> list[Any]:
    """PEFT's tuner of every wrapped model."""
    wrapped: list[Any] = [trained.wrapped[prefix] for prefix in trained.models if prefix in trained.wrapped]
    return [model.base_model for model in wrapped]


LORA, ADALORA = Lora(), AdaLora()
