"""The methods: VectorFit and its variants, and what they are compared with. `registry.py` has a row for each."""

from typing import TYPE_CHECKING

from vectorfit import lazy

from .method import DREAMBOOTH, TASKS, Method, Options, Technique, Trained, layers_inside
from .registry import METHODS, SMALL_MODELS, STABLE_DIFFUSION, STARTER, find, names

if TYPE_CHECKING:
    from .insertion import put_in, save
    from .loading import holds_vectors, load, name_of_method, restore

__all__ = [
    "DREAMBOOTH",
    "METHODS",
    "SMALL_MODELS",
    "STABLE_DIFFUSION",
    "STARTER",
    "TASKS",
    "Method",
    "Options",
    "Technique",
    "Trained",
    "find",
    "holds_vectors",
    "layers_inside",
    "load",
    "name_of_method",
    "names",
    "put_in",
    "restore",
    "save",
]

# What needs PyTorch, by module.
_NAMES = {
    "insertion": "put_in save",
    "loading": "holds_vectors load name_of_method restore",
}
__getattr__ = lazy.attributes(__name__, _NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
