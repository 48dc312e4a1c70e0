"""The record of an injection: the configuration, the adapted layers, and the modules trained whole.

`inject` leaves a record on each model; `injection_of` is the one place that finds it again.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from .config import VectorFitConfig
from .layers import VectorFitLayer
from .modules import Models, named_modules

_RECORD = "_vectorfit_record"  # an attribute of the model, outside its state dict; copies and pickles carry it along


@dataclass(frozen=True)
class Head:
    """A module trained whole (`modules_to_save`), and the values its parameters had before."""

    module: nn.Module
    original: dict[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> "Head":
        """Makes a module trainable and keeps the values it has now."""
        module.requires_grad_(True)
        head = cls(module, {})
        head.original.update(head.values())
        return head

    def values(self) -> dict[str, Tensor]:
        """A copy of the values now, by parameter name."""
        return {name: parameter.detach().clone() for name, parameter in self.module.named_parameters()}

    def set_values(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.data.copy_(values[name])


@dataclass(frozen=True)
class Record:
    """What a model keeps of its injection: what to load and save by, and what `remove` restores."""

    config: VectorFitConfig
    trainable_before: frozenset[str]  # names of the parameters that required a gradient
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class Injection:
    """What VectorFit has put into one or several models; empty where nothing was injected. Keys are module paths."""

    config: VectorFitConfig = field(default_factory=VectorFitConfig)
    layers: dict[str, VectorFitLayer] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)

    @property
    def vectors(self) -> dict[str, nn.Parameter]:
        """The trainable vectors by name."""
        return {
            f"{path}.{kind}": vector for path, layer in self.layers.items() for kind, vector in layer.vectors.items()
        }

    @property
    def head_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the modules trained whole, by name."""
        return {
            f"{path}.{name}": parameter
            for path, head in self.heads.items()
            for name, parameter in head.module.named_parameters()
        }

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All trained parameters by name: the vectors, then those of the modules trained whole."""
        return {**self.vectors, **self.head_parameters}

    def set_strength(self, strength: float) -> None:
        """Scales all deltas, and composes merged layers anew."""
        for layer in self.layers.values():
            layer.strength = float(strength)
            if layer.merged:
                layer.remerge()


def injection_of(models: Models) -> Injection:
    """What VectorFit has put into the models, by one walk over their modules."""
    layers: dict[str, VectorFitLayer] = {}
    heads: dict[str, Head] = {}
    records: list[Record] = []
    head_of_module: dict[int, Head] = {}
    for path, module in named_modules(models):
        record = module.__dict__.get(_RECORD)
        if record is not None:  # the walk reaches a model before its heads
            records.append(record)
            head_of_module |= {id(head.module): head for head in record.heads}
        if id(module) in head_of_module:
            heads[path] = head_of_module[id(module)]
        if isinstance(module, VectorFitLayer):
            layers[path] = module
    return Injection(records[0].config if records else VectorFitConfig(), layers, heads)


def keep_record(model: nn.Module, record: Record) -> None:
    """Leaves the record on a model."""
    model.__dict__[_RECORD] = record


def drop_records(models: Models) -> None:
    """Forgets the injection. The parameters that were trainable before it are trainable again."""
    for _, model in list(named_modules(models)):
        record = model.__dict__.pop(_RECORD, None)
        if record is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in record.trainable_before)


def vector_parameters(models: Models) -> dict[str, nn.Parameter]:
    """The trainable vectors, named `<module path>.sigma` and `.bias`: the one definition of "trainable"."""
    return injection_of(models).vectors


def head_parameters(models: Models) -> dict[str, nn.Parameter]:
    """The parameters of the modules trained whole, by path; an optimizer takes them beside `vector_parameters`."""
    return injection_of(models).head_parameters
