"""A bank of subjects on one base: each sample of a batch takes its own subject, a mix of several, or the base."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .atomic import PathLike
from .errors import VectorFitError
from .fingerprint import by_canonical_path
from .layers import VectorFitLayer
from .modules import Models
from .record import injection_of
from .rows import BASE, LayerRows, Rows, seated
from .vectors_file import HARMLESS, verified

MOST_KEPT = 2**30  # bytes of composed weights that are kept within a context; of more, none is

Row = str | Mapping[str, float] | None  # a subject, several with their strengths, or the base
Stacked = dict[str, Tensor]  # by kind, "sigma" or "bias": the deltas of all subjects [S, n]


class SubjectBank:
    """Subjects by name, read and verified once, to draw several of them in one batch.

    `with bank.rows(["dog", None, {"dog": 0.5, "cat": 0.5}]):` gives each sample of a batch its subject: a batch's row i
    is computed with `W0 + U diag(d_sigma_i) Vh` and `b0 + d_bias_i`. A row of `None` is the base, bit for bit what the
    base computes in a batch of that size. Where composed weights for all rows take little memory, they are kept within
    the context; otherwise each layer is computed factored, or with a weight composed for each subject at every call, by
    what takes fewer multiply-adds. Outside the context the models are as before.

    Args:
        models: as `inject` takes them. Where they lack layers that a file adapts, those are injected.
        subjects: the subject files by the names to call them.
        tolerated_error: as `set_subjects` takes it.

    Raises:
        VectorFitError: no subject, a file is damaged, its deltas belong to other weights, or it has more than vectors.
    """

    def __init__(self, models: Models, subjects: Mapping[str, PathLike], *, tolerated_error: float = HARMLESS) -> None:
        if not subjects:
            raise VectorFitError(
                "subjects: got none, expected subject files by name, such as {'dog': 'dog.safetensors'}"
            )
        self.models = models
        injection, loaded = verified(models, [(path, 1.0) for path in subjects.values()], tolerated_error)
        with_heads = next((subject for subject in loaded if subject.heads), None)
        if with_heads is not None:
            raise VectorFitError(
                f"{with_heads.path}: brings {with_heads.heads[0]} whole, which the rows of a batch share; "
                "load it with vectorfit.set_subjects"
            )
        self._numbers = {name: number for number, name in enumerate(subjects)}
        self._layers = by_canonical_path(injection.layers)
        self._vectors = {
            path: _stacked(path, layer, [subject.vectors for subject in loaded]) for path, layer in self._layers.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the subjects, in the order they were given."""
        return tuple(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @contextmanager
    def rows(self, rows: Sequence[Row]) -> Iterator[None]:
        """Within the context sample i of every batch has the subjects of `rows[i]`; merged models are not merged then.

        A batch has as many samples as `rows`, or twice as many, one copy after the other: with classifier-free
        guidance the pipelines of diffusers draw such batches.

        Raises:
            VectorFitError: no row, an unknown name, a strength that is no number; in the forward pass a batch of
                another size; the models were injected anew since the bank was made.
        """
        mixes = [self._mix(row, place) for place, row in enumerate(rows)]
        if not mixes:
            raise VectorFitError("rows: got none, expected a subject, a mix or None for each sample of the batch")
        present = {id(layer) for layer in injection_of(self.models).layers.values()}
        gone = [path for path, layer in self._layers.items() if id(layer) not in present]
        if gone:
            raise VectorFitError(f"{gone[0]}: injected anew since this bank was made; make a new SubjectBank")
        distinct = [mix for mix in dict.fromkeys(mixes) if mix]
        in_sets = [distinct.index(mix) if mix else BASE for mix in mixes]
        numbers = Rows(in_sets, len(distinct), keeps_weights=self._weights_fit(len(mixes)))
        used = sorted({name for mix in distinct for name, _ in mix}, key=self._numbers.__getitem__)
        shares = torch.tensor([[dict(mix).get(name, 0.0) for name in used] for mix in distinct])  # A [k, used]
        chosen = torch.tensor([self._numbers[name] for name in used], dtype=torch.long)
        layers = {layer: self._rows_of(path, numbers, shares, chosen) for path, layer in self._layers.items()}
        with _unmerged(list(layers)), seated(layers):
            yield

    def _weights_fit(self, num_rows: int) -> bool:
        """Whether a composed weight for each row, of all layers, takes at most `MOST_KEPT`."""
        return num_rows * sum(layer.weight.nbytes for layer in self._layers.values()) <= MOST_KEPT

    def _rows_of(self, path: str, numbers: Rows, shares: Tensor, chosen: Tensor) -> LayerRows:
        """A layer's vectors of the distinct mixes, A D: each [k, n]."""
        device, mixed = self._layers[path].weight.device, {}
        for kind, stacked in self._vectors[path].items():
            mixed[kind] = (shares @ stacked[chosen]).to(device) if len(chosen) else None
        return LayerRows(numbers, mixed.get("sigma"), mixed.get("bias"))

    def _mix(self, row: Row, place: int) -> tuple[tuple[str, float], ...]:
        """The subjects of a row with their strengths; those of strength 0 are left out."""
        if row is None:
            return ()
        parts = {row: 1.0} if isinstance(row, str) else row
        if not isinstance(parts, Mapping):
            raise VectorFitError(
                f"rows[{place}]: got {row!r}, expected a name, a dictionary of strengths by name, or None"
            )
        for name, strength in parts.items():
            if name not in self._numbers:
                near = difflib.get_close_matches(str(name), self.names, 3, 0.4) or list(self.names)[:3]
                raise VectorFitError(f"rows[{place}]: no subject {name!r} in the bank; nearest: {', '.join(near)}")
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
                raise VectorFitError(f"rows[{place}]: the strength of {name!r} is {strength!r}, expected a number")
        return tuple(sorted((name, float(strength)) for name, strength in parts.items() if strength))


def _stacked(path: str, layer: VectorFitLayer, subjects: Sequence[Mapping[str, Tensor]]) -> Stacked:
    """The deltas of a layer of all subjects, zero where a file has none; kinds that no file has are left out."""
    stacked = {}
    for kind, vector in layer.vectors.items():
        own = [subject.get(f"{path}.{kind}") for subject in subjects]
        if any(delta is not None for delta in own):
            zero = torch.zeros(vector.shape)
            stacked[kind] = torch.stack([zero if delta is None else delta.float() for delta in own])
    return stacked


@contextmanager
def _unmerged(layers: Sequence[VectorFitLayer]) -> Iterator[None]:
    """Within the context the layers hold the base's weights. Afterwards those that were merged are so again."""
    before = [(layer, layer.served, layer.weight.dtype) for layer in layers if layer.merged]
    try:
        for layer, _, _ in before:
            layer.unmerge()
        yield
    finally:
        for layer, served, dtype in before:
            if served:
                device = layer.weight.device
                layer.serve()
                layer.to(device, dtype)
            layer.remerge()
