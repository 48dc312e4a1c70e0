"""The methods: VectorFit and its variants, and what they are compared with. `registry.py` has a row for each."""

from .loading import holds_vectors, load, name_of_method, restore
from .method import DREAMBOOTH, TASKS, Method, Options, Technique, Trained, layers_inside
from .registry import METHODS, SMALL_MODELS, STABLE_DIFFUSION, STARTER, find, names, put_in, save

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
