"""What to train: the variant and the modules."""

from dataclasses import dataclass

from .errors import VectorFitError

# variant -> which vectors of a matched layer are trained (Section 6.3 of the paper)
VARIANTS = {
    "vectorfit": ("sigma", "bias"),
    "no_avf": ("sigma", "bias"),  # the same vectors; the caller runs no AdaptiveVectorFreezing
    "sigma": ("sigma",),
}


@dataclass(frozen=True)
class VectorFitConfig:
    """Which vectors of which modules are trained.

    Args:
        variant: one of `VARIANTS`.
        target_modules: names of modules to adapt: a full path, its last parts (`"to_q"`, `"attn1.to_q"`); None stands
            for every linear layer but output heads.
        exclude_modules: names of modules to leave, in the same form.

    Raises:
        VectorFitError: for an unknown variant.
    """

    variant: str = "vectorfit"
    target_modules: tuple[str, ...] | None = None
    exclude_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise VectorFitError(f"variant: got {self.variant!r}, expected one of {', '.join(VARIANTS)}")
        for field in ("target_modules", "exclude_modules"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise VectorFitError(f"{field}: got the string {value!r}, expected a list of names: [{value!r}]")
            if value is not None:
                object.__setattr__(self, field, tuple(value))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The vectors trained in a matched layer: "sigma", and "bias" where the variant has it."""
        return VARIANTS[self.variant]
