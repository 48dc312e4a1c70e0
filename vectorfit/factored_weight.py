"""A layer's weight with its factors: kept as `factor_storage` says, moved with the layer, and sharded where it is.

Legend as in `layers`: W0 [out, in], U [out, r], sigma [r], Vh [r, in], `tail` and the square factor of "square".
"""

from typing import Any

from torch import Tensor, nn

from . import factor_storage
from .factor_cache import factors
from .factor_storage import FLOAT32, SQUARE
from .pattern import Pattern
from .sharding import gathered

KEPT = ("U", "sigma", "Vh", "tail")
MATRICES = ("U", "Vh", "tail")


class FactoredWeight(nn.Module):
    """The part of a layer that holds the base's weight and its factors, which are outside state dicts.

    Of "square" one of `U` and `Vh` is not kept. Reading it recovers it from the weight, in float32, which takes a
    product of matrices: what is computed once in a while (merging, files, exports) need not know of storages.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    U: Tensor  # None, as are sigma and Vh, where no sigma is trained
    sigma: Tensor
    Vh: Tensor
    tail: Tensor | None
    positions: Tensor | None
    pattern: Pattern
    storage: str
    pristine: tuple[Tensor, Tensor | None] | None

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        """A weight as a matrix [out, in]."""
        return weight

    @classmethod
    def shape_of(cls, module: nn.Module) -> tuple[int, ...]:
        """(out, in) of a base layer's weight as a matrix; of a LayerNorm (out,)."""
        weight: Any = module.weight
        return tuple(cls.matrix(weight).shape)

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """(out, in) of the weight as a matrix; of a LayerNorm (out,)."""
        return self.shape_of(self)

    @property
    def is_wide(self) -> bool:
        """Whether U is the square factor: as many columns as rows, or more."""
        out, columns = self.matrix_shape
        return out <= columns

    def factorise(self, kinds: tuple[str, ...], pattern: Pattern, storage: str = FLOAT32) -> None:
        """Registers the factors and the positions of the pattern's entries; all are None where no sigma is trained."""
        kept: dict[str, Tensor | None] = dict.fromkeys((*KEPT, "positions"))
        self.pattern, self.storage, self.__dict__["absent_factor"] = pattern, storage, ""
        if "sigma" in kinds:
            U, sigma, Vh = factors(self.matrix(self.weight))
            kept |= {"sigma": sigma, "positions": pattern.positions(U, Vh)}
            dtype = factor_storage.stored_dtype(storage, self.weight)
            if storage == SQUARE:
                kept["U"], kept["Vh"], kept["tail"] = factor_storage.split(U, sigma, Vh, dtype)
                self.__dict__["absent_factor"] = absent = "Vh" if self.is_wide else "U"
                self._buffers.pop(absent, None)
                del kept[absent]
            else:
                kept |= {"U": U.to(dtype), "Vh": Vh.to(dtype)}
        for name, value in kept.items():
            self.register_buffer(name, value, persistent=False)

    def recovered(self) -> Tensor:
        """The factor that "square" does not keep. Shapes: Vh [r, in] where U is square, otherwise U [out, r]."""
        assert self.tail is not None
        square, tail = gathered(self.U if self.is_wide else self.Vh), gathered(self.tail)
        weight = self.matrix(gathered((self.pristine or (self.weight,))[0])).detach().to(square.device)
        return factor_storage.recovered(weight, square, self.sigma.to(square.device), tail, wide=self.is_wide)

    def square_and_rest(self) -> tuple[Tensor, Tensor]:
        """The square factor and what is kept of the other: its tail, or all of it. Shapes: as in `factor_storage`."""
        square, other = (self.U, "Vh") if self.is_wide else (self.Vh, "U")
        rest: Tensor = getattr(self, "tail" if self.storage == SQUARE else other)
        return square, rest

    def change(self, d_sigma: Tensor) -> Tensor:
        """dW = U M Vh of these entries. Shapes: d_sigma [n]; result [out, in]."""
        U, Vh = gathered(self.U).float(), gathered(self.Vh).float()
        return self.pattern.times(U, d_sigma, self.positions) @ Vh

    def _kept_dtypes(self) -> dict[str, Tensor]:
        """The factors by name, to be put back by `_keep_dtypes`."""
        return {name: value for name in KEPT if (value := self._buffers.get(name)) is not None}

    def _keep_dtypes(self, before: dict[str, Tensor]) -> None:
        """Undoes a change of the factors' dtypes: `.half()` must not round them."""
        for name, value in before.items():
            moved = getattr(self, name)
            if moved.dtype != value.dtype:
                setattr(self, name, value.to(moved.device))

    def shard_factors(self) -> None:
        """Makes the factors frozen parameters, which FSDP2 shards, unlike buffers. State dicts stay without them."""
        names = [name for name in MATRICES if self._buffers.get(name) is not None]
        for name in names:
            value = self._buffers.pop(name)
            assert value is not None
            if value.numel():  # an empty tail has nothing to shard
                self.register_parameter(name, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(name, value, persistent=False)
        hooked: Any = self  # torch leaves both unannotated
        hooked.register_state_dict_post_hook(_without_factors)
        hooked.register_load_state_dict_post_hook(_not_missing)


def _without_factors(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in MATRICES:
        state.pop(prefix + name, None)


def _not_missing(module: nn.Module, keys: Any) -> None:
    own = [name for name in MATRICES if module._parameters.get(name) is not None]
    keys.missing_keys[:] = [key for key in keys.missing_keys if key.rpartition(".")[2] not in own]
