"""The core's layers as layers of PEFT: the same mathematics, with the vectors of several adapters."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from vectorfit.errors import VectorFitError
from vectorfit.layers import VectorFitConv1D, VectorFitConv2d, VectorFitLayer, VectorFitLinear, VectorFitNorm
from vectorfit.pattern import DIAGONAL

from .config import VectorFitConfig

PARAMETERS = {"sigma": "vectorfit_sigma", "bias": "vectorfit_bias"}  # kind -> name in a layer and in adapter files


class VectorFitTunerLayer(BaseTunerLayer):
    """What makes a layer of the core one of PEFT's: the vectors of several adapters, summed over the active ones."""

    adapter_layer_names = tuple(PARAMETERS.values())
    other_param_names = ()

    def __init__(self, base_layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        self.vectorfit_sigma, self.vectorfit_bias = nn.ParameterDict(), nn.ParameterDict()
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._prepare(base_layer)
        self.factorise((), DIAGONAL)

    def update_layer(self, adapter_name: str, kinds: tuple[str, ...], config: VectorFitConfig) -> None:
        """Adds an adapter whose vectors are zero, in float32 whatever the base's precision.

        Raises:
            VectorFitError: its pattern is not that of the adapters before it.
        """
        pattern = config.core().matrix_pattern
        self.require_same_pattern(kinds, config)
        if "sigma" in kinds and not len(self.vectorfit_sigma):
            self.factorise(kinds, pattern)
        for kind, size in self.vector_sizes(kinds, pattern).items():
            vector = nn.Parameter(torch.zeros(size, device=self.weight.device))
            getattr(self, PARAMETERS[kind])[adapter_name] = vector
        self.scaling[adapter_name] = 1.0
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def require_same_pattern(self, kinds: tuple[str, ...], config: VectorFitConfig) -> None:
        """Raises VectorFitError for an adapter whose pattern is not that of the adapters before it: all share one."""
        pattern = config.core().matrix_pattern
        if "sigma" in kinds and len(self.vectorfit_sigma) and pattern != self.pattern:
            raise VectorFitError(
                f"the adapter's pattern is {pattern}, that of the adapters before it {self.pattern}; load it on a "
                "model of its own"
            )

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.scaling.pop(adapter_name, None)

    @property
    def enabled(self) -> bool:
        return not self._disable_adapters

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._disable_adapters = not value

    def _sum(self, kind: str) -> Tensor | None:
        """The vector in effect: the sum over the active adapters, or the merged ones, each with its scale."""
        vectors = getattr(self, PARAMETERS[kind])
        parts = [
            self.scaling[name] * vectors[name]
            for name in self.merged_adapters or self.active_adapters
            if name in vectors
        ]
        return None if not parts else torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    @property
    def d_sigma(self) -> Tensor | None:
        return self._sum("sigma")

    @property
    def d_bias(self) -> Tensor | None:
        return self._sum("bias")

    @property
    def vectors(self) -> dict[str, nn.Parameter]:
        """The vectors of the active adapters, as "sigma.ADAPTER" and "bias.ADAPTER"."""
        return {
            f"{kind}.{adapter}": getattr(self, attribute)[adapter]
            for kind, attribute in PARAMETERS.items()
            for adapter in self.active_adapters
            if adapter in getattr(self, attribute)
        }

    def _all_vectors(self) -> list[nn.Parameter]:
        return [*self.vectorfit_sigma.values(), *self.vectorfit_bias.values()]

    def set_scale(self, adapter: str, scale: float) -> None:
        """The strength of one adapter: 0 is the base, 1 as trained."""
        if adapter in self.scaling:
            self.scaling[adapter] = float(scale)
            if adapter in self.merged_adapters:
                self.remerge()

    def scale_layer(self, scale: float) -> None:
        for adapter in self.active_adapters:
            self.set_scale(adapter, self.scaling.get(adapter, 1.0) * scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        for adapter in self.active_adapters:
            self.set_scale(adapter, 1.0 if scale is None else self.scaling.get(adapter, 1.0) / scale)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Writes the effective weight into the base layer; several adapters may be merged one after the other.

        Raises:
            ValueError: with `safe_merge`, the weight would not be finite; nothing is changed.
        """
        new_adapters = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.scaling]
        if not new_adapters:
            return
        if safe_merge and not self.finite_with(new_adapters):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {new_adapters} seems to be broken")
        self.merged_adapters = [*self.merged_adapters, *new_adapters]
        self.remerge()

    @torch.no_grad()
    def finite_with(self, adapter_names: list[str]) -> bool:
        """Whether weight and bias would be finite with these adapters merged on top of those that are."""
        before = list(self.merged_adapters)
        self.merged_adapters = [
            *before,
            *(name for name in adapter_names if name in self.scaling and name not in before),
        ]
        try:
            return all(bool(torch.isfinite(t).all()) for t in self.composed() if t is not None)
        finally:
            self.merged_adapters = before

    def unmerge(self) -> None:
        """Puts the base's own bits back."""
        VectorFitLayer.unmerge(self)
        self.merged_adapters = []

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """PEFT's `convert_to_lora` may approximate linear layers, without their biases; see `vectorfit.export`."""
        return isinstance(self, VectorFitLinear) and adapter_name in self.vectorfit_sigma

    def get_delta_weight(self, adapter: str) -> Tensor:
        """dW of one adapter, in the base's shape."""
        if adapter not in self.vectorfit_sigma:
            return torch.zeros_like(self.weight)
        change = self.change(self.strength * self.scaling[adapter] * self.vectorfit_sigma[adapter].detach())
        delta: Tensor = self.unmatrix(change, self.weight.shape).to(self.weight.dtype)
        return delta


class Linear(VectorFitTunerLayer, VectorFitLinear): ...


class Conv1D(VectorFitTunerLayer, VectorFitConv1D): ...


class Conv2d(VectorFitTunerLayer, VectorFitConv2d): ...


class Norm(VectorFitTunerLayer, VectorFitNorm): ...


TUNER_LAYERS: dict[type[nn.Module] | None, type[nn.Module]] = {
    VectorFitLinear: Linear,
    VectorFitConv1D: Conv1D,
    VectorFitConv2d: Conv2d,
    VectorFitNorm: Norm,
}
