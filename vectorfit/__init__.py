"""VectorFit: fine-tuning by training the singular values and biases that a model's weights already have."""

from typing import TYPE_CHECKING

from . import lazy

if TYPE_CHECKING:
    from .bank import SubjectBank
    from .config import VectorFitConfig
    from .container import read_metadata
    from .errors import VectorFitError
    from .freezing import AdaptiveVectorFreezing
    from .injection import disabled, inject, merge, merged, remove, serve, set_strength, shard_factors, unmerge
    from .layers import VectorFitLayer
    from .optim import parameter_groups
    from .planning import LayerPlan, Plan, plan
    from .record import head_parameters, vector_parameters
    from .schedule import AvfSchedule, avf_schedule
    from .vectors_file import load_vectors, save_vectors, set_subjects

__version__ = "0.1.0"

__all__ = [
    "AdaptiveVectorFreezing",
    "AvfSchedule",
    "LayerPlan",
    "Plan",
    "SubjectBank",
    "VectorFitConfig",
    "VectorFitError",
    "VectorFitLayer",
    "avf_schedule",
    "disabled",
    "head_parameters",
    "inject",
    "load_vectors",
    "merge",
    "merged",
    "parameter_groups",
    "plan",
    "read_metadata",
    "remove",
    "save_vectors",
    "serve",
    "set_strength",
    "set_subjects",
    "shard_factors",
    "unmerge",
    "vector_parameters",
]

# By module. A command line is read, and --help answered, before PyTorch is loaded.
_NAMES = {
    "bank": "SubjectBank",
    "config": "VectorFitConfig",
    "container": "read_metadata",
    "errors": "VectorFitError",
    "freezing": "AdaptiveVectorFreezing",
    "injection": "disabled inject merge merged remove serve set_strength shard_factors unmerge",
    "layers": "VectorFitLayer",
    "optim": "parameter_groups",
    "planning": "LayerPlan Plan plan",
    "record": "head_parameters vector_parameters",
    "schedule": "AvfSchedule avf_schedule",
    "vectors_file": "load_vectors save_vectors set_subjects",
}
__getattr__ = lazy.attributes(__name__, _NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
