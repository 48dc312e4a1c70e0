"""L1 on the deltas and dropout on sigma: the paper's alternatives to freezing."""

import torch
from torch import Tensor

from vectorfit import VectorFitError, vector_parameters
from vectorfit.modules import Models, vectorfit_layers


def l1(models: Models) -> Tensor:
    """The sum of the absolute values of all deltas, to be added to the loss with a weight."""
    return torch.stack([vector.abs().sum() for vector in vector_parameters(models).values()]).sum()


def weak_l1(models: Models) -> Tensor:
    """The penalty that the method `l1` adds. Its weight is a guess, never tuned: the paper gives none."""
    return 1e-5 * l1(models)


def set_sigma_dropout(models: Models, probability: float) -> None:
    """In training mode every singular value is dropped with this probability, the others scaled up to make up for it.

    Raises:
        VectorFitError: a probability outside [0, 1), or layers that train more than a diagonal.
    """
    if not 0 <= probability < 1:
        raise VectorFitError(f"probability: got {probability}, expected at least 0 and below 1")
    wider = next((path for path, layer in vectorfit_layers(models) if not layer.pattern.is_diagonal), None)
    if wider is not None:
        raise VectorFitError(f"{wider}: it trains a pattern wider than the diagonal; dropout is for the plain pattern")
    for _, layer in vectorfit_layers(models):
        layer.sigma_dropout = probability
