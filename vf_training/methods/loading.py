"""Recognises which method a file is of, applies it and removes it."""

import json
from collections.abc import Mapping

from vectorfit import VectorFitError, read_metadata
from vectorfit.atomic import PathLike
from vectorfit.container import PREFIX
from vectorfit.modules import Models, named_models

from .change_file import BASELINE
from .method import Technique
from .registry import METHODS
from .vectors import METHOD, Vectors

# The one attribute that `load` leaves on a model, outside its state dict: what takes the file's change away again.
# Copies and pickles of the models carry it along.
_UNDO = "_vf_training_undo"


def holds_vectors(metadata: Mapping[str, str]) -> bool:
    """Whether a file, by its metadata, is a subject file, which holds vectors; a change file of LoRA, say, is not."""
    return BASELINE not in metadata


def name_of_method(metadata: Mapping[str, str]) -> str:
    """The name of the method that a file was trained by, by its metadata; VectorFit's where nothing is said.

    Raises:
        VectorFitError: what is said is no name.
    """
    named: object = metadata.get(BASELINE) or metadata.get(METHOD)
    if not named:
        try:  # DreamBooth's subject files of version 0.1.0 name it among their settings
            named = json.loads(metadata.get(PREFIX + "training", "{}")).get("method", "vectorfit")
        except (ValueError, AttributeError):
            named = "vectorfit"
    if not isinstance(named, str):
        raise VectorFitError(f"the metadata's method: got {named!r}, expected a name such as vectorfit; train it again")
    return named


def load(models: Models, path: PathLike, strength: float = 1.0) -> None:
    """Gives plain models what a file of any method holds; `restore` takes it away. What was loaded before is replaced.

    Raises:
        VectorFitError: the file is damaged, of another base, or of a method that is not known; the models are the base.
    """
    restore(models)
    metadata = read_metadata(path)
    if holds_vectors(metadata):
        technique: Technique = Vectors()
    elif metadata[BASELINE] in METHODS:
        technique = METHODS[metadata[BASELINE]].technique
    else:
        raise VectorFitError(f"{path}: of the method {metadata[BASELINE]!r}, which a newer vectorfit knows")
    undo = technique.load(models, path, strength)
    for model in named_models(models).values():
        model.__dict__[_UNDO] = undo


def restore(models: Models) -> None:
    """Makes models the base again, bit for bit, where `load` has changed them."""
    undone = {id(undo): undo for model in named_models(models).values() if (undo := model.__dict__.pop(_UNDO, None))}
    for undo in undone.values():
        undo()
