"""The configuration of the method, and its name among PEFT's."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from peft import PeftConfig, PeftType

from vectorfit.config import VectorFitConfig as CoreConfig

NAME = "VECTORFIT"


def peft_type_of_vectorfit() -> PeftType:
    """PEFT's type of this method. Its enum is closed to the outside: a missing member is made by hand."""
    if NAME in PeftType.__members__:
        return PeftType[NAME]
    member = str.__new__(PeftType, NAME)
    member._name_, member._value_, member._sort_order_ = NAME, NAME, len(PeftType.__members__)
    member.__objclass__ = PeftType
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    PeftType._member_names_.append(NAME)
    type.__setattr__(PeftType, NAME, member)
    return member


@dataclass
class VectorFitConfig(PeftConfig):
    """Which vectors of which modules are trained, for `peft.get_peft_model` and `model.add_adapter`.

    Raises:
        VectorFitError: for an unknown variant or pattern.
    """

    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={"help": "Names of modules, or a regex; None or 'all-linear' is every linear layer but output heads."},
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names of modules to leave, or a regex."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save whole, such as a fresh classifier."}
    )
    variant: str = field(default="vectorfit", metadata={"help": "One of vectorfit.config.VARIANTS."})
    norm_biases: bool = field(default=False, metadata={"help": "Train the biases of the blocks' LayerNorms too."})
    pattern: str = field(default="plain", metadata={"help": "One of vectorfit.pattern.PATTERNS; 'plain' is VectorFit."})
    pattern_width: int = field(default=1, metadata={"help": "The pattern's `width`, as its class says."})
    base_sha256: str | None = field(default=None, metadata={"help": "Hash of the adapted weights; filled in."})
    base_sketch: str | None = field(
        default=None, metadata={"help": "Tells another model from a rounded one; filled in."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type_of_vectorfit()
        self.core()
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))

    def core(self, targets: Iterable[str] | None = None) -> CoreConfig:
        """The core's configuration of the same choices, for these target modules."""
        return CoreConfig(
            variant=self.variant,
            target_modules=None if targets is None else tuple(targets),
            bias="all" if self.norm_biases else "layers",
            pattern=self.pattern,
            pattern_width=self.pattern_width,
        )
