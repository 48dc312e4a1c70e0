"""VectorFit, its variants, SVFT and what Adaptive Vector Freezing is compared with: the core, configured."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

import vectorfit as vf
from vectorfit.atomic import PathLike
from vectorfit.container import PREFIX
from vectorfit.modules import Models

from .method import Options, Technique, Trained, layers_inside
from .regularizers import set_sigma_dropout

METHOD = PREFIX + "method"  # in a subject file's metadata: the method that trained it


class Vectors(Technique):
    """Trains vectors of the core's layers. Its file is the core's own, the subject file."""

    def insert(self, trained: Trained, options: Options) -> None:
        method = trained.method
        assert method.config is not None
        excluded = layers_inside(trained.models, options.exclude)
        config = replace(method.config, modules_to_save=trained.heads, bias=options.bias, exclude_modules=excluded)
        config = replace(config, factors=options.factors)
        if trained.size:
            config = replace(config, pattern_width=trained.size)
        trained.plan = vf.inject(trained.models, config)
        if method.sigma_dropout:
            set_sigma_dropout(trained.models, method.sigma_dropout)

    def parameters(self, trained: Trained) -> dict[str, nn.Parameter]:
        return {**vf.vector_parameters(trained.models), **vf.head_parameters(trained.models)}

    def save(
        self,
        trained: Trained,
        path: PathLike,
        base_model: str,
        base_revision: str | None,
        metadata: Mapping[str, str],
        *,
        write: bool = True,
    ) -> None:
        metadata = {METHOD: trained.method.name, **metadata}
        save = partial(vf.save_vectors, trained.models, path, metadata=metadata, write=write)
        save(base_model=base_model, base_revision=base_revision)

    def load(self, models: Models, path: PathLike, strength: float) -> Callable[[], None]:
        vf.load_vectors(models, path, strength)
        return partial(vf.remove, models)


VECTORS = Vectors()


def adaptive_freezing(models: Models, seed: int, **schedule: Any) -> vf.AdaptiveVectorFreezing:
    """The core's Adaptive Vector Freezing, in the form that a row has it: nothing in it is random."""
    return vf.AdaptiveVectorFreezing(models, **schedule)
