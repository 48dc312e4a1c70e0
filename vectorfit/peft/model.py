"""How PEFT puts the layers into a model, and the check that an adapter is on its own base."""

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from vectorfit.config import VARIANTS
from vectorfit.errors import VectorFitError
from vectorfit.fingerprint import (
    by_canonical_path,
    canonical_name,
    matrices_sha256,
    sketch,
    sketch_of_matrices,
    unlike_layers,
)
from vectorfit.idle_biases import idle_biases
from vectorfit.layers import VectorFitLayer, layer_for
from vectorfit.modules import named_modules, vectorfit_layers, weight_owners
from vectorfit.planning import kinds_of, plan, why_not
from vectorfit.quantised import is_quantised
from vectorfit.sharding import gathered

from .config import VectorFitConfig
from .layer import TUNER_LAYERS, VectorFitTunerLayer


class VectorFitModel(BaseTuner):
    """PEFT's model of this method; made by `peft.get_peft_model`."""

    prefix = "vectorfit_"
    tuner_layer_cls = VectorFitTunerLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _prepare_adapter_config(self, peft_config: VectorFitConfig, model_config: dict[str, Any]) -> VectorFitConfig:
        return peft_config

    def _prepare_model(self, peft_config: VectorFitConfig, model: nn.Module) -> None:
        """Selects the modules, and refuses those that cannot be adapted before anything is replaced.

        Raises:
            VectorFitError: a module cannot be adapted, nothing is left to train, or the adapter is of other weights.
        """
        self._owners, self._idle = weight_owners(model), idle_biases(model)
        peft_config.target_modules = self._targets(peft_config, model)
        matrices, modules = {}, dict(named_modules(model))
        for path in sorted(peft_config.target_modules):
            if not self._check_target_module_exists(peft_config, path):  # excluded
                continue
            module: Any = modules[path]
            base = _base(module)
            self._refuse(path, base)
            kinds = self._kinds(path, base, peft_config)
            if isinstance(module, VectorFitTunerLayer):
                module.require_same_pattern(kinds, peft_config)
            kind: Any = layer_for(base)
            if "sigma" in kinds or ("bias" in kinds and base.bias is not None):
                weight = (module.pristine or (base.weight,))[0] if isinstance(module, VectorFitLayer) else base.weight
                matrices[canonical_name(path)] = kind.matrix(gathered(weight.detach()))
        if not matrices:
            raise VectorFitError(
                f"nothing to train: none of {len(peft_config.target_modules)} targets has what the variant "
                f"{peft_config.variant!r} trains; name others, or leave target_modules out"
            )
        matrices = dict(sorted(matrices.items()))
        if peft_config.base_sha256 is None:  # a new adapter, not yet bound to weights
            peft_config.base_sha256 = matrices_sha256(matrices)
        verify("the adapter", peft_config, matrices)

    def _targets(self, config: VectorFitConfig, model: nn.Module) -> set[str]:
        """The full paths of the target modules: those that are named, or those that the core takes by default."""
        named = config.target_modules
        if named is None or named == "all-linear":
            excluded = tuple(path for path, module in named_modules(model) if _excluded(config, path, module))
            return {layer.path for layer in plan(model, replace(config.core(), exclude_modules=excluded)).layers}
        modules = dict(named_modules(model))
        targets = {path for path in modules if path and self._check_target_module_exists(config, path)}
        if config.norm_biases and VARIANTS[config.variant]["bias"]:
            # `norm_biases` adds the LayerNorms that the core takes by default, whatever layers are named.
            layers = plan(model, config.core()).layers
            targets |= {layer.path for layer in layers if isinstance(_base(modules[layer.path]), nn.LayerNorm)}
        if not targets:
            names = named if isinstance(named, str) else ", ".join(map(repr, sorted(named)))
            last_parts = {path.split(".")[-1] for path, module in modules.items() if layer_for(_base(module))}
            raise VectorFitError(
                f"target_modules: {names} matches no module; layers here are {', '.join(sorted(last_parts))}"
            )
        return targets

    def _kinds(self, path: str, base: nn.Module, config: VectorFitConfig) -> tuple[str, ...]:
        """The kinds of vectors that the core would train in a layer."""
        kinds = kinds_of(path, base, config.core())
        return tuple(kind for kind in kinds if kind != "bias" or path not in self._idle)

    def _create_and_replace(
        self,
        peft_config: VectorFitConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        base = _base(target)
        self._refuse(current_key, base)
        kinds = self._kinds(current_key, base, peft_config)
        if not kinds:  # a role that the variant leaves alone
            return
        try:
            if isinstance(target, VectorFitTunerLayer):
                target.update_layer(adapter_name, kinds, peft_config)
                return
            layer: Any = TUNER_LAYERS[layer_for(base)](base)
            layer._active_adapter = adapter_name
            layer.update_layer(adapter_name, kinds, peft_config)
        except VectorFitError as error:
            raise VectorFitError(f"{current_key}: {error}") from error
        if adapter_name not in self.active_adapters:  # a further adapter does not train at once
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _refuse(self, path: str, base: nn.Module) -> None:
        weight: Any = getattr(base, "weight", None)
        if not hasattr(base, "weight"):
            raise VectorFitError(f"{path}: a {type(base).__name__}, expected a layer with a weight; leave it out")
        if weight is not None and weight.is_meta:
            raise VectorFitError(
                f"{path}: its weight is on the meta device, there is nothing to factorise; load it first"
            )
        reason = why_not(path, base, self._owners)
        if not reason and is_quantised(base):
            reason = "its weight is quantised, which this method does not take through PEFT; use vectorfit.inject"
        if reason:
            raise VectorFitError(f"{path}: {reason}; leave it out with exclude_modules")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's, on a configuration of the adapter's own: the user's may serve for other models.

        Raises:
            VectorFitError: as `_prepare_model` does; the model is then as it was.
        """
        config = self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if config.base_sketch is None:
            adapted = by_canonical_path(dict(vectorfit_layers(model))).items()
            config.base_sketch = sketch({path: layer for path, layer in adapted if adapter_name in _adapters(layer)})

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """As PEFT's; with `safe_merge` all layers are checked before the first is merged."""
        if safe_merge:
            self._require_finite(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge and safe_merge:
            self._require_finite(adapter_names)
        model: nn.Module = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        return model

    def _require_finite(self, adapter_names: list[str] | None) -> None:
        for path, layer in vectorfit_layers(self.model):
            if isinstance(layer, VectorFitTunerLayer) and not layer.finite_with(adapter_names or layer.active_adapters):
                raise ValueError(f"NaNs detected in the merged weights of {path}; nothing was merged")


def _adapters(layer: Any) -> Mapping[str, float]:
    """The scale of each adapter of a layer, by name."""
    scales: Mapping[str, float] = getattr(layer, "scaling", {})
    return scales


def _base(module: Any) -> Any:
    """The base layer of PEFT's layers, any other module itself."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _excluded(config: VectorFitConfig, path: str, module: nn.Module) -> bool:
    """Whether a layer is excluded, by PEFT's rules: a regex, or names and their last parts."""
    excluded = config.exclude_modules
    if not excluded or layer_for(_base(module)) is None:
        return False
    if isinstance(excluded, str):
        return re.fullmatch(excluded, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in excluded)


def verify(what: str, config: VectorFitConfig, matrices: Mapping[str, Tensor]) -> None:
    """Refuses an adapter of another model; warns where the model is the same but its weights are rounded.

    `matrices` are the base weights [out, in] of the adapter's layers, by canonical name in the names' order.
    """
    if config.base_sha256 in (None, matrices_sha256(matrices)):
        return
    unlike = unlike_layers(config.base_sketch or "", sketch_of_matrices(matrices, config.base_sketch or ""))
    if unlike:
        raise VectorFitError(
            f"{what}: trained on other weights (SHA-256 {str(config.base_sha256)[:12]}...), of another "
            f"model ({unlike[0]} differs); load it on {config.base_model_name_or_path or 'the base it was trained on'}"
        )
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in matrices.values()})
    warnings.warn(
        f"{what}: the model's weights ({', '.join(dtypes)}) are rounded or changed since it was trained; "
        "its change will be off by a few per cent. Load the base in the precision it was trained in",
        stacklevel=3,
    )
