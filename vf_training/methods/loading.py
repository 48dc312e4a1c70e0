"""From a file of any method to models: which method a file is of, its change put in and taken away again."""

import json
from collections.abc import Mapping

from vectorfit import read_metadata
from vectorfit.atomic import PathLike
from vectorfit.container import PREFIX
from vectorfit.modules import Models, named_models

from .change_file import BASELINE
from .method import Method
from .registry import find
from .vectors import METHOD

_UNDO = "_vf_training_undo"  # an attribute of a model: what takes away the change that was loaded


def name_of_method(metadata: Mapping[str, str]) -> str:
    """The name of the method that a file was trained by, by its metadata; VectorFit's where nothing is said."""
    named = metadata.get(BASELINE) or metadata.get(METHOD)
    if named:
        return named
    try:  # DreamBooth's subject files of version 0.1.0 name it among their settings
        settings = json.loads(metadata.get(PREFIX + "training", "{}"))
        return str(settings.get("method", "vectorfit"))
    except (ValueError, AttributeError):
        return "vectorfit"


def method_of(path: PathLike) -> Method:
    """The method that a file was trained by. Raises VectorFitError for a file that is not ours or an unknown method."""
    return find(name_of_method(read_metadata(path)))


def load(models: Models, path: PathLike, strength: float = 1.0) -> None:
    """Gives plain models what a file of any method holds; `restore` takes it away. What was loaded before is replaced.

    Raises:
        VectorFitError: the file is damaged, or of another base; the models are the base then.
    """
    restore(models)
    undo = method_of(path).technique.load(models, path, strength)
    for model in named_models(models).values():
        model.__dict__[_UNDO] = undo


def restore(models: Models) -> None:
    """Makes models the base again, bit for bit, where `load` has changed them."""
    undone = {id(undo): undo for model in named_models(models).values() if (undo := model.__dict__.pop(_UNDO, None))}
    for undo in undone.values():
        undo()
