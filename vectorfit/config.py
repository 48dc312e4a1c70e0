"""What to train: the variant and the modules."""

from dataclasses import dataclass

from .errors import VectorFitError
from .factor_storage import AUTO, STORAGES
from .pattern import PATTERNS, Pattern, pattern_named
from .roles import ATTENTION, FEED_FORWARD, OTHER

_EVERYWHERE = (ATTENTION, FEED_FORWARD, OTHER)
# variant -> of which roles the sigma and of which the bias are trained (Section 6.3 of the paper). What is neither
# attention nor feed-forward (a UNet's time embedding) goes with the variants that train everything.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "vectorfit": {"sigma": _EVERYWHERE, "bias": _EVERYWHERE},
    "no_avf": {"sigma": _EVERYWHERE, "bias": _EVERYWHERE},  # the same vectors; the caller runs no freezing
    "sigma": {"sigma": _EVERYWHERE, "bias": ()},
    "sigma_a": {"sigma": (ATTENTION,), "bias": ()},
    "sigma_a+b": {"sigma": (ATTENTION,), "bias": (ATTENTION, FEED_FORWARD)},
}


@dataclass(frozen=True)
class VectorFitConfig:
    """Which vectors of which modules are trained.

    Args:
        variant: one of `VARIANTS`.
        target_modules: names of modules to adapt: a full path, its last parts (`"to_q"`, `"attn1.to_q"`); None stands
            for every linear layer but output heads. Convolutions are adapted only when named.
        exclude_modules: names of modules to leave, in the same form.
        bias: "layers" trains the biases of adapted layers, "all" those of the blocks' LayerNorms too: a reading of the
            paper's "all the bias vectors"; it changes nothing in variants without biases.
        idle_biases: also train the biases that no output depends on, see `idle_biases`; files of version 0.1.0 have
            them.
        modules_to_save: names of modules to train whole, such as a fresh classifier, in the same form.
        pattern: which entries of `M` in `dW = U M Vh` are trained, a name in `pattern.PATTERNS`; "plain" is the
            diagonal and VectorFit.
        factors: how the factors of linear layers are kept: "float32", "bf16" (both of them, halved), "square" (the
            square one, from which and the weight the other follows), or by size with "auto"; see `factor_storage`. It
            does not change what a file means.
        pattern_width: the pattern's `width`, as its class in `pattern` says; "plain" has none.

    Raises:
        VectorFitError: for an unknown variant, bias or pattern, a width below 1.
    """

    variant: str = "vectorfit"
    target_modules: tuple[str, ...] | None = None
    exclude_modules: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    bias: str = "layers"
    idle_biases: bool = False
    pattern: str = "plain"
    pattern_width: int = 1
    factors: str = AUTO

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise VectorFitError(f"variant: got {self.variant!r}, expected one of {', '.join(VARIANTS)}")
        if self.bias not in ("layers", "all"):
            raise VectorFitError(f"bias: got {self.bias!r}, expected 'layers' or 'all'")
        if self.pattern not in PATTERNS:
            raise VectorFitError(f"pattern: got {self.pattern!r}, expected one of {', '.join(PATTERNS)}")
        if self.factors not in STORAGES:
            raise VectorFitError(f"factors: got {self.factors!r}, expected one of {', '.join(STORAGES)}")
        if self.pattern_width < 1:
            raise VectorFitError(f"pattern_width: got {self.pattern_width}, expected at least 1")
        for field in ("target_modules", "exclude_modules", "modules_to_save"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise VectorFitError(f"{field}: got the string {value!r}, expected a list of names: [{value!r}]")
            if value is not None:
                object.__setattr__(self, field, tuple(value))

    @property
    def trains_biases(self) -> bool:
        return bool(VARIANTS[self.variant]["bias"])

    @property
    def trains_norms(self) -> bool:
        return self.bias == "all" and self.trains_biases

    @property
    def matrix_pattern(self) -> Pattern:
        """The pattern of M."""
        return pattern_named(self.pattern, self.pattern_width)

    def kinds(self, role: str) -> tuple[str, ...]:
        """The vectors trained in a layer of a role: "sigma", "bias", both or none."""
        return tuple(kind for kind, roles in VARIANTS[self.variant].items() if role in roles)
