"""The methods of fine-tuning whose training steps the benchmarks compare."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vectorfit.svd import decompose
from vf_training import methods as registry

METHODS = ("frozen", "lora 1", "lora 2", "vectorfit", "svft", "rebuild", "full")
EXPLAINED = """"frozen" is the floor: forward, and backward to the input, with nothing trained. "lora" is PEFT's LoRA
of that rank on the same linear layers. "svft" is SVFT's random pattern of d = 2, in VectorFit's layers.
"rebuild" is SVDiff's way: autograd composes the weight in every forward. "full" trains the
linear layers' own weights and biases."""


class Rebuilt(nn.Module):
    """A linear layer whose weight autograd rebuilds from its factors at every forward."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        U, sigma, Vh = decompose(base.weight)
        self.register_buffer("U", U)
        self.register_buffer("sigma", sigma)
        self.register_buffer("Vh", Vh)
        self.delta = nn.Parameter(torch.zeros_like(sigma))
        self.bias = base.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.U * (self.sigma + self.delta)) @ self.Vh, self.bias)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {path: module for path, module in model.named_modules() if type(module) is nn.Linear}


def adapt(method: str, models: dict[str, nn.Module]) -> list[nn.Parameter]:
    """Prepares the models, in place, and returns what the method trains."""
    for model in models.values():
        model.requires_grad_(False).train()
    if method in ("vectorfit", "svft"):
        return list(registry.put_in(method, models).parameters.values())
    if method.startswith("lora"):
        options = registry.Options(size=int(method.split()[1]))
        return list(registry.put_in("lora", models, options).parameters.values())
    for model in models.values():
        if method == "rebuild":
            for path, module in linears(model).items():
                parent, _, last = path.rpartition(".")
                setattr(model.get_submodule(parent), last, Rebuilt(module))
            for module in model.modules():
                if isinstance(module, Rebuilt) and module.bias is not None:
                    module.bias.requires_grad_(True)
        elif method == "full":
            for module in linears(model).values():
                module.requires_grad_(True)
    return [p for model in models.values() for p in model.parameters() if p.requires_grad]
