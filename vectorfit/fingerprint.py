"""How a subject file knows its base: a hash of the weights, a sketch of each layer, and a probe of the change."""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .layers import VectorFitLayer
from .sharding import gathered
from .svd import in_float64

PROBES = 4  # random pairs per layer


def canonical_name(name: str) -> str:
    """A name without the `text_model.` level that CLIPTextModel has in some transformers and not in others."""
    return ".".join(part for part in name.split(".") if part != "text_model")


def by_canonical_path(
    layers: Mapping[str, VectorFitLayer], only: Collection[str] | None = None
) -> dict[str, VectorFitLayer]:
    """Layers by canonical path, in sorted order; `only` are the canonical paths to keep."""
    renamed = {canonical_name(path): layer for path, layer in layers.items()}
    return {path: renamed[path] for path in sorted(renamed) if only is None or path in only}


def base_matrix(layer: VectorFitLayer) -> Tensor:
    weight = gathered((layer.pristine or (layer.weight,))[0])
    return layer.matrix(weight).detach().float().cpu().contiguous()


class BaseMatrices(Mapping[str, Tensor]):
    """The base's weights as matrices, made one at a time: all of them would be a second copy of the model."""

    def __init__(self, layers: Mapping[str, VectorFitLayer]) -> None:
        self.layers = layers

    def __getitem__(self, path: str) -> Tensor:
        return base_matrix(self.layers[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


# Per first layer of a base: what its hash stands for, and the hash. A base of 1.4 GB takes a second or two.
_hashes: "WeakKeyDictionary[VectorFitLayer, tuple[object, str]]" = WeakKeyDictionary()


def weights_sha256(layers: Mapping[str, VectorFitLayer]) -> str:
    """SHA-256 over the adapted base weights: each layer's canonical path, shape and float32 bytes, in sorted order.

    Computed once, and again where a weight has been written to. (Merging writes past torch's count of writes.)
    """
    if not layers:
        return matrices_sha256({})
    first = next(iter(layers.values()))
    state = [(path, layer.base_mark, _writes(layer.weight)) for path, layer in layers.items()]
    known = _hashes.get(first)
    if known is None or known[0] != state:
        # One matrix at a time: all of them would be a second copy of the model.
        known = _hashes[first] = state, matrices_sha256(BaseMatrices(layers))
    return known[1]


def _writes(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def matrices_sha256(matrices: Mapping[str, Tensor]) -> str:
    """The same over weights as matrices [out, in], by canonical path in sorted order."""
    digest = hashlib.sha256()
    for path, matrix in matrices.items():
        weight = matrix.detach().float().cpu().contiguous()
        digest.update(f"{path} {tuple(weight.shape)}".encode())
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a file's tensors: name, dtype, shape and bytes, in sorted order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sketch(layers: Mapping[str, VectorFitLayer]) -> str:
    """Per layer the Frobenius norm of its weight and its largest singular value to three digits, as JSON."""
    numbers = {}
    for path, layer in layers.items():
        largest = None if layer.sigma is None else float(f"{layer.sigma[0].item():.3g}")
        numbers[path] = [float(f"{base_matrix(layer).norm().item():.3g}"), largest]
    return json.dumps(numbers, separators=(",", ":"))


def sketch_of_matrices(matrices: Mapping[str, Tensor], like: str) -> str:
    """The sketch of weights that are not factorised, with a largest singular value where the sketch `like` has one."""
    try:
        other = json.loads(like)
        has_largest = {path: other[path][1] is not None for path in matrices if path in other}
    except (ValueError, TypeError, IndexError, KeyError):
        has_largest = {}
    numbers = {}
    for path, matrix in matrices.items():
        weight = matrix.detach().float()
        largest = float(f"{torch.linalg.matrix_norm(weight, 2).item():.3g}") if has_largest.get(path) else None
        numbers[path] = [float(f"{weight.norm().item():.3g}"), largest]
    return json.dumps(numbers, separators=(",", ":"))


def unlike_layers(recorded: str, sketched: str) -> list[str]:
    """The layers whose sketch differs by more than rounding to half precision explains: they are another model's."""
    now = json.loads(sketched)
    try:
        before = json.loads(recorded)
        pairs = {path: zip(before[path], now[path], strict=True) for path in now}
        return [
            path
            for path, values in pairs.items()
            if any(a is not None and not math.isclose(a, b, rel_tol=0.02) for a, b in values)
        ]
    except (ValueError, TypeError, KeyError):
        return list(now)


def probe(layers: Mapping[str, VectorFitLayer], deltas: Mapping[str, Tensor]) -> list[float]:
    """A probe of the change on this base: `a^T dW b` for random a and b, `PROBES` per layer with a sigma.

    The mean square of these numbers estimates ||dW||_F^2, so the difference of two probes estimates the relative error
    of the change. It does not depend on the signs or the order of singular vectors.
    """
    values: list[float] = []
    for path, layer in layers.items():
        delta = deltas.get(f"{path}.sigma")
        if layer.d_sigma is None or delta is None:
            continue
        seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        # In float64: with TensorFloat-32 the probe would err by half of what is taken for harmless.
        U, Vh = in_float64(gathered(layer.U)), in_float64(gathered(layer.Vh))
        left = torch.randn(PROBES, U.shape[0], generator=generator).to(U)
        right = torch.randn(PROBES, Vh.shape[1], generator=generator).to(U)
        positions = None if layer.positions is None else layer.positions.to(U.device)
        applied = layer.pattern.times(left @ U, delta.to(U), positions)  # a^T U M
        values += (applied * (right @ Vh.T)).sum(1).tolist()
    return [float(f"{value:.5g}") for value in values]


def probe_error(recorded: str, now: list[float]) -> float:
    """The relative error of dW, estimated from two probes; infinite where they cannot be compared."""
    try:
        before = [float(value) for value in json.loads(recorded)]
    except (ValueError, TypeError):
        return math.inf
    if len(before) != len(now) or not all(map(math.isfinite, before)):
        return math.inf
    norm = math.sqrt(sum(value**2 for value in before))
    distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(before, now, strict=True)))
    if norm == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / norm
