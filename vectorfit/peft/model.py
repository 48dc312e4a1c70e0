"""How PEFT puts the layers into a model, and the check that an adapter is on its own base."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from vectorfit.errors import VectorFitError
from vectorfit.fingerprint import base_layers, sketch, unlike_layers, weights_sha256
from vectorfit.layers import VectorFitLayer, layer_for
from vectorfit.plan import kinds_of, plan, weight_owners, why_not

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
        """Names the modules where none are named, those that the core takes; refuses before anything is replaced."""
        self._owners = weight_owners(model)
        if peft_config.target_modules is None or peft_config.target_modules == "all-linear":
            layers = plan(model, peft_config.core()).layers
            peft_config.target_modules = {layer.path for layer in layers}
        for path, module in model.named_modules():
            if path and self._check_target_module_exists(peft_config, path):
                self._refuse(path, module.get_base_layer() if isinstance(module, BaseTunerLayer) else module)

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
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        self._refuse(current_key, base)
        kinds = kinds_of(current_key, base, peft_config.core())
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
        if getattr(getattr(base, "weight", None), "ds_id", None) is not None:
            raise VectorFitError(
                f"{path}: its weight is partitioned by DeepSpeed ZeRO-3, each process would factorise its part of it; "
                "use ZeRO-1 or plain data parallelism: what is trained is tiny"
            )
        if not hasattr(base, "weight"):
            raise VectorFitError(f"{path}: a {type(base).__name__}, expected a layer with a weight; leave it out")
        if base.weight.is_meta:
            raise VectorFitError(
                f"{path}: its weight is on the meta device, there is nothing to factorise; load it first"
            )
        reason = why_not(path, base, self._owners)
        if reason:
            raise VectorFitError(f"{path}: {reason}; leave it out with exclude_modules")

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's, and then a check that the weights are those that the adapter was trained on.

        Raises:
            VectorFitError: a layer cannot be adapted, with the reason; or the adapter is of another model.
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        adapted = base_layers(model).items()
        layers = {path: layer for path, layer in adapted if adapter_name in getattr(layer, "scaling", {})}
        verify(f"adapter {adapter_name!r}", self.peft_config[adapter_name], layers)


def verify(what: str, config: VectorFitConfig, layers: Mapping[str, VectorFitLayer]) -> None:
    """Refuses an adapter of another model; warns where the model is the same but its weights are rounded.

    A new adapter, which knows of no weights yet, is told of these.
    """
    found = weights_sha256(layers)
    if config.base_sha256 is None:
        config.base_sha256, config.base_sketch = found, sketch(layers)
    if config.base_sha256 == found:
        return
    unlike = unlike_layers(config.base_sketch or "", layers)
    if unlike:
        raise VectorFitError(
            f"{what}: trained on other weights (SHA-256 {str(config.base_sha256)[:12]}...), of another "
            f"model ({unlike[0]} differs); load it on {config.base_model_name_or_path or 'the base it was trained on'}"
        )
    dtypes = sorted({str(layer.weight.dtype).removeprefix("torch.") for layer in layers.values()})
    warnings.warn(
        f"{what}: the model's weights ({', '.join(dtypes)}) are rounded or changed since it was trained; "
        "its change comes out off by some per cent. Load the base in the precision it was trained in",
        stacklevel=3,
    )
