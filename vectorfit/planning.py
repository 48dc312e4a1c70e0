"""Which vectors of a model VectorFit trains, by names and shapes alone."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from . import quantised
from .config import VARIANTS, VectorFitConfig
from .errors import VectorFitError
from .factor_storage import FLOAT32, factor_bytes, storage_for, stored_dtype
from .idle_biases import idle_biases
from .layers import VectorFitConv2d, VectorFitNorm, layer_for
from .modules import Models, is_named, named_models, named_modules, vectorfit_layers, weight_owners
from .roles import role

# The names that transformers gives a task's output layer.
OUTPUT_HEADS = ("lm_head", "classifier", "score", "qa_outputs")


@dataclass(frozen=True)
class LayerPlan:
    """One layer to adapt: its path, its role, the weight's shape as a matrix (out, in), its vectors' sizes by kind.

    `factors` is how its factors are kept (`factor_storage`), and `factor_bytes` what they take; "" and 0 without sigma.
    """

    path: str
    role: str
    shape: tuple[int, ...]
    vectors: dict[str, int]
    factors: str = ""
    factor_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """The layers to adapt, and the modules to train whole with their sizes. `str(plan)` is a table.

    `idle` are the layers whose bias is left out because no output depends on it.
    """

    layers: tuple[LayerPlan, ...]
    num_total: int
    saved: dict[str, int] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    @property
    def num_trainable(self) -> int:
        """The number of values in all vectors; those of modules trained whole are `num_saved`."""
        return sum(sum(layer.vectors.values()) for layer in self.layers)

    @property
    def num_saved(self) -> int:
        return sum(self.saved.values())

    @property
    def num_vectors(self) -> int:
        return sum(len(layer.vectors) for layer in self.layers)

    @property
    def factor_bytes(self) -> int:
        """What the factors of all layers take."""
        return sum(layer.factor_bytes for layer in self.layers)

    @property
    def storages(self) -> dict[str, int]:
        """How many layers keep their factors in which way."""
        kept = [layer.factors for layer in self.layers if layer.factors]
        return {storage: kept.count(storage) for storage in sorted(set(kept))}

    def __str__(self) -> str:
        width = max((len(layer.path) for layer in self.layers), default=5)
        told = not self.storages.keys() <= {FLOAT32}
        rows = [f"{'layer':{width}}  {'role':12}  {'weight':>13}  {'sigma':>7}  {'bias':>7}" + "  factors" * told]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.shape))
            sigma, bias = layer.vectors.get("sigma", 0), layer.vectors.get("bias", 0)
            row = f"{layer.path:{width}}  {layer.role:12}  {shape:>13}  {sigma:7,}  {bias:7,}"
            rows.append(row + f"  {layer.factors}" * told)
        rows += [f"{path:{width}}  trained whole, {size:,} parameters" for path, size in self.saved.items()]
        return "\n".join([*rows, self.summary()])

    def summary(self) -> str:
        share = 100 * self.num_trainable / self.num_total if self.num_total else 0.0
        heads = f", and {self.num_saved:,} in modules trained whole" if self.saved else ""
        idle = f"; without the biases of {len(self.idle)} attention keys, which softmax cancels" if self.idle else ""
        return (
            f"{self.num_vectors} vectors in {len(self.layers)} layers, "
            f"{self.num_trainable:,} of {self.num_total:,} parameters ({share:.4f} %){heads}{idle}{self._factors()}"
        )

    def _factors(self) -> str:
        """How the factors are kept, where not all are in float32."""
        if self.storages.keys() <= {FLOAT32}:
            return ""
        counts = ", ".join(f"{storage} in {count} layers" for storage, count in self.storages.items())
        return f"; factors: {counts}, {self.factor_bytes / 2**30:.2f} GiB"


def saved_modules(models: Models, names: Collection[str]) -> dict[str, nn.Module]:
    """The modules that `modules_to_save` names, by path. Raises VectorFitError for a name that matches none."""
    saved: dict[str, nn.Module] = {}
    modules = dict(named_modules(models))
    for name in names:
        matching = {path: module for path, module in modules.items() if path and is_named(path, name)}
        if not matching:
            last_parts = {path.split(".")[-1] for path in modules}
            nearest = ", ".join(map(repr, difflib.get_close_matches(name, last_parts, 3, 0.4))) or "none is near"
            raise VectorFitError(f"modules_to_save: {name!r} matches no module of the model; nearest: {nearest}")
        saved |= matching
    return saved


def why_not(path: str, module: nn.Module, owners: Mapping[int, list[str]]) -> str:
    """The reason why a layer cannot be adapted, or "" where it can."""
    weight: Any = module.weight
    if weight is None:
        return f"a {type(module).__name__} without weight and bias"
    if hasattr(weight, "ds_id"):
        return "DeepSpeed ZeRO-3 has split its weight among the processes; use DDP or FSDP2"
    if quantised.is_quantised(module) and (reason := quantised.why_not(module)):
        return reason
    kind = layer_for(module)
    if kind is None:
        name = type(module).__name__
        if name == "NonDynamicallyQuantizableLinear":
            return f"a {name}, whose MultiheadAttention reads the weight without calling the layer"
        return f"a {name}, expected an nn.Linear, a transformers Conv1D or an nn.Conv2d"
    if kind is VectorFitConv2d and module.groups != 1:
        return f"a convolution of {module.groups} groups, whose weight is not one matrix"
    others = [other for other in owners[id(weight)] if other != path]
    if others:
        return f"its weight is tied with {others[0]}, which merging would change too"
    return ""


def _is_tied_head(
    path: str, module: nn.Module, owners: Mapping[int, list[str]], modules: Mapping[str, nn.Module]
) -> bool:
    """Whether a layer shares its weight with an embedding: an output head, whatever it is called."""
    return any(isinstance(modules[other], nn.Embedding) for other in owners[id(module.weight)] if other != path)


def _candidates(models: Models) -> dict[str, nn.Module]:
    """The modules that a target may name: all whose weight is a matrix or a kernel."""
    return {
        path: module
        for path, module in named_modules(models)
        if layer_for(module) is not None or isinstance(module, nn.Linear | nn.Conv2d)
    }


def _check_names(models: Models, config: VectorFitConfig, candidates: Collection[str]) -> None:
    """Raises VectorFitError for a name in the configuration that matches no layer."""
    modules = dict(named_modules(models))
    for option in ("target_modules", "exclude_modules"):
        for name in getattr(config, option) or ():
            if any(is_named(path, name) for path in candidates):
                continue
            other = next((path for path in modules if path and is_named(path, name)), None)
            if other is not None:
                kind = type(modules[other]).__name__
                raise VectorFitError(
                    f"{option}: {name!r} names {other}, a {kind}, expected an nn.Linear, a transformers Conv1D or an "
                    "nn.Conv2d; leave it out"
                )
            last_parts = {path.split(".")[-1] for path in candidates} | set(candidates)
            nearest = ", ".join(map(repr, difflib.get_close_matches(name, last_parts, 3, 0.4))) or "none is near"
            raise VectorFitError(f"{option}: {name!r} matches no linear layer of the model; nearest: {nearest}")


def kinds_of(path: str, module: nn.Module, config: VectorFitConfig) -> tuple[str, ...]:
    """Which vectors of a module are trained: a LayerNorm's bias; other layers' by their role and the variant."""
    if layer_for(module) is VectorFitNorm:
        return ("bias",) if VARIANTS[config.variant]["bias"] else ()
    return config.kinds(role(path))


def _vectors(path: str, module: nn.Module, shape: Sequence[int], config: VectorFitConfig) -> dict[str, int]:
    """The sizes of the trained vectors of a layer, by kind."""
    sigma = config.matrix_pattern.size(min(shape))
    sizes = {"sigma": sigma, "bias": shape[0] if module.bias is not None else 0}
    return {kind: sizes[kind] for kind in kinds_of(path, module, config) if sizes[kind]}


def _factors(
    module: nn.Module, shape: Sequence[int], vectors: Mapping[str, int], config: VectorFitConfig
) -> tuple[str, int]:
    """How a layer's factors are kept, and the bytes that they take."""
    if "sigma" not in vectors:
        return "", 0
    storage = storage_for(config.factors, shape, is_linear=layer_for(module) is not VectorFitConv2d)
    assert isinstance(module.weight, Tensor)
    return storage, factor_bytes(storage, shape, stored_dtype(storage, module.weight))


def _is_selected(path: str, module: nn.Module, config: VectorFitConfig) -> bool:
    if any(is_named(path, name) for name in config.exclude_modules):
        return False
    if layer_for(module) is VectorFitNorm:
        in_a_block = any(part.isdigit() for part in path.split("."))
        named = any(is_named(path, name) for name in config.target_modules or ())
        return named or (config.trains_norms and in_a_block and module.weight is not None)
    if config.target_modules is not None:
        return any(is_named(path, name) for name in config.target_modules)
    if path.split(".")[-1] in OUTPUT_HEADS:
        return False
    # By default every linear layer but subclasses, which may compute something else. A quantised layer is selected too,
    # so that `plan` refuses it with the reason.
    linear = layer_for(module) not in (None, VectorFitConv2d, VectorFitNorm)
    return linear or (isinstance(module, nn.Linear) and quantised.is_quantised(module))


def plan(models: Models, config: VectorFitConfig | None = None) -> Plan:
    """Lists the vectors that would be trained. It reads no weight, so models may be on the meta device.

    Args:
        models: one module, or several by name, such as {"unet": unet, "text_encoder": text_encoder}.
        config: None stands for `VectorFitConfig()`.

    Raises:
        VectorFitError: a name matches no layer (the nearest are given), a layer cannot be adapted (with the reason),
            or nothing is left to train.
    """
    config = config or VectorFitConfig()
    candidates = _candidates(models)
    _check_names(models, config, list(candidates))
    saved = saved_modules(models, config.modules_to_save)
    in_saved = {id(inner) for module in saved.values() for inner in module.modules()}
    owners, modules, layers, left_out = weight_owners(models), dict(named_modules(models)), [], []
    idle = frozenset() if config.idle_biases else idle_biases(models)
    for path, module in candidates.items():
        if id(module) in in_saved or not _is_selected(path, module, config):
            continue
        if config.target_modules is None and _is_tied_head(path, module, owners, modules):
            continue
        reason = why_not(path, module, owners)
        if reason:
            raise VectorFitError(f"{path}: {reason}; leave it out with exclude_modules")
        kind = layer_for(module)
        assert kind is not None
        shape = kind.shape_of(module)
        vectors = _vectors(path, module, shape, config)
        if path in idle and vectors.pop("bias", 0):
            left_out.append(path)
        if vectors:
            layers.append(LayerPlan(path, role(path), shape, vectors, *_factors(module, shape, vectors, config)))
    if not layers:
        raise VectorFitError("the plan is empty: the model has no linear layer that the configuration selects")
    deltas = {id(v) for _, layer in vectorfit_layers(models) for v in layer.vectors.values()}
    parameters = {id(p): p for model in named_models(models).values() for p in model.parameters()}
    total = sum(quantised.num_weights(p) for key, p in parameters.items() if key not in deltas)
    sizes = {path: sum(p.numel() for p in m.parameters()) for path, m in saved.items()}
    return Plan(tuple(layers), total, sizes, tuple(left_out))
