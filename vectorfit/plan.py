"""Which vectors of a model VectorFit trains, worked out from names and shapes alone."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from .config import VectorFitConfig
from .errors import VectorFitError
from .layers import VectorFitLinear

Models = nn.Module | Mapping[str, nn.Module]

# Names under which transformers keep the output layer that a task brings along.
OUTPUT_HEADS = ("lm_head", "classifier", "score", "qa_outputs")


@dataclass(frozen=True)
class LayerPlan:
    """One layer to adapt: its path, the weight's shape (out, in), and the sizes of its vectors by kind."""

    path: str
    shape: tuple[int, int]
    vectors: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """The layers to adapt. `str(plan)` is a table."""

    layers: tuple[LayerPlan, ...]
    num_total: int

    @property
    def num_trainable(self) -> int:
        return sum(sum(layer.vectors.values()) for layer in self.layers)

    @property
    def num_vectors(self) -> int:
        return sum(len(layer.vectors) for layer in self.layers)

    def __str__(self) -> str:
        width = max((len(layer.path) for layer in self.layers), default=5)
        rows = [f"{'layer':{width}}  {'weight':>13}  {'sigma':>7}  {'bias':>7}"]
        for layer in self.layers:
            shape = f"{layer.shape[0]} x {layer.shape[1]}"
            sigma, bias = layer.vectors.get("sigma", 0), layer.vectors.get("bias", 0)
            rows.append(f"{layer.path:{width}}  {shape:>13}  {sigma:7,}  {bias:7,}")
        return "\n".join([*rows, self.summary()])

    def summary(self) -> str:
        share = 100 * self.num_trainable / self.num_total if self.num_total else 0.0
        return (
            f"{self.num_vectors} vectors in {len(self.layers)} layers, "
            f"{self.num_trainable:,} of {self.num_total:,} parameters ({share:.4f} %)"
        )


def named_models(models: Models) -> dict[str, nn.Module]:
    """The models by name, where one module alone has the name ""."""
    return {"": models} if isinstance(models, nn.Module) else dict(models)


def join(*parts: str) -> str:
    """A dotted path of the non-empty parts."""
    return ".".join(part for part in parts if part)


def vectorfit_layers(models: Models) -> Iterator[tuple[str, VectorFitLinear]]:
    """The adapted layers of one or several models with their paths, in the models' order."""
    for prefix, model in named_models(models).items():
        for path, module in model.named_modules():
            if isinstance(module, VectorFitLinear):
                yield join(prefix, path), module


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith("." + name)


def _linears(models: Models) -> Iterator[tuple[str, nn.Linear | VectorFitLinear]]:
    for prefix, model in named_models(models).items():
        for path, module in model.named_modules():
            # Exactly nn.Linear: a subclass may compute something else with its weight.
            if type(module) is nn.Linear or isinstance(module, VectorFitLinear):
                yield join(prefix, path), module


def _check_targets(models: Models, config: VectorFitConfig, linears: list[str]) -> None:
    modules = {join(p, path): m for p, model in named_models(models).items() for path, m in model.named_modules()}
    for field in ("target_modules", "exclude_modules"):
        for name in getattr(config, field) or ():
            if any(_matches(path, name) for path in linears):
                continue
            other = next((path for path in modules if path and _matches(path, name)), None)
            if other is not None:
                kind = type(modules[other]).__name__
                raise VectorFitError(f"{field}: {name!r} names {other}, a {kind}, expected an nn.Linear; leave it out")
            last_parts = {path.split(".")[-1] for path in linears} | set(linears)
            nearest = ", ".join(map(repr, difflib.get_close_matches(name, last_parts, 3, 0.4))) or "none is near"
            raise VectorFitError(f"{field}: {name!r} matches no linear layer of the model; nearest: {nearest}")


def plan(models: Models, config: VectorFitConfig | None = None) -> Plan:
    """States which vectors would be trained, without touching a weight (the meta device will do).

    Args:
        models: one module, or several by name, such as {"unet": unet, "text_encoder": text_encoder}.
        config: None stands for `VectorFitConfig()`.

    Raises:
        VectorFitError: a name matches no layer (the nearest are given), or nothing is left to train.
    """
    config = config or VectorFitConfig()
    linears = dict(_linears(models))
    _check_targets(models, config, list(linears))
    layers = []
    for path, module in linears.items():
        if config.target_modules is None:
            wanted = path.split(".")[-1] not in OUTPUT_HEADS
        else:
            wanted = any(_matches(path, name) for name in config.target_modules)
        if not wanted or any(_matches(path, name) for name in config.exclude_modules):
            continue
        shape = (module.out_features, module.in_features)
        sizes = {"sigma": min(shape)}
        if "bias" in config.kinds and module.bias is not None:
            sizes["bias"] = module.out_features
        layers.append(LayerPlan(path, shape, sizes))
    if not layers:
        raise VectorFitError("the plan is empty: the model has no linear layer that the configuration selects")
    vectors = {id(v) for _, layer in vectorfit_layers(models) for v in layer.vectors.values()}
    parameters = {id(p): p for model in named_models(models).values() for p in model.parameters()}
    return Plan(tuple(layers), sum(p.numel() for key, p in parameters.items() if key not in vectors))
