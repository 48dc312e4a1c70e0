"""VectorFit: fine-tuning by training the singular values and biases that a model's weights already have."""

from .config import VectorFitConfig
from .container import read_metadata
from .errors import VectorFitError
from .freezing import AdaptiveVectorFreezing, AvfSchedule, avf_schedule
from .inject import disabled, inject, merge, merged, remove, serve, set_strength, unmerge
from .layers import VectorFitLayer
from .optim import parameter_groups
from .plan import LayerPlan, Plan, plan
from .record import head_parameters, vector_parameters
from .vectors_file import load_vectors, save_vectors, set_subjects

__version__ = "0.1.0"

__all__ = [
    "AdaptiveVectorFreezing",
    "AvfSchedule",
    "LayerPlan",
    "Plan",
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
    "unmerge",
    "vector_parameters",
]
