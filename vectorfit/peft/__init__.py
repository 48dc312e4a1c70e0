"""VectorFit as a method of PEFT: importing this package makes PEFT know it.

    import vectorfit.peft
    model = peft.get_peft_model(model, vectorfit.peft.VectorFitConfig())

The layers are the core's own, with the vectors of several adapters in place of one set; `vectorfit.vector_parameters`
and `vectorfit.AdaptiveVectorFreezing` take a PEFT model as they take any other.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from .config import NAME, VectorFitConfig, peft_type_of_vectorfit
from .files import to_adapter, to_subject_file
from .layer import VectorFitTunerLayer
from .model import VectorFitModel

__all__ = ["VectorFitConfig", "VectorFitModel", "VectorFitTunerLayer", "to_adapter", "to_subject_file"]


def _register() -> None:
    """Makes PEFT know the method, once; steps aside where PEFT has one of that name itself."""
    if peft_type_of_vectorfit() not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME.lower(), config_cls=VectorFitConfig, model_cls=VectorFitModel)


_register()
