"""The coded subject file: the deltas of another one in few bytes. It loads wherever a subject file does."""

import json

from . import container
from .atomic import PathLike
from .coding import Coded, encode
from .container import PREFIX
from .errors import VectorFitError
from .fingerprint import by_canonical_path, probe
from .modules import Models
from .record import injection_of
from .vectors_file import load_vectors, read_vectors

MOST_BYTES = 100_000
INSIDE = ("sketch", "probe")  # long texts of the metadata, which are kept in the code
LEFT_OUT = ("format", "modelspec.thumbnail")  # a thumbnail may be a tenth of the file


def save_coded(
    models: Models, path: PathLike, target: PathLike, *, strength: float = 1.0, most_bytes: int = MOST_BYTES
) -> Coded:
    """Writes a subject file's deltas, times `strength`, coded in at most `most_bytes`, and returns how they came out.

    The models are the subject's base; they have the coded deltas afterwards.

    Raises:
        VectorFitError: as `load_vectors` does; the file has modules trained whole; the bytes do not suffice.
    """
    heads = container.heads_of(path, container.read_metadata(path))
    if heads:
        raise VectorFitError(f"{path}: brings {heads[0]} whole, which is not coded; expected a file of vectors alone")
    load_vectors(models, path)  # verifies that this is the base
    vectors, metadata = read_vectors(path)
    scaled = {name: strength * vector.float() for name, vector in vectors.items()}
    layers = by_canonical_path(injection_of(models).layers, {name.rpartition(".")[0] for name in scaled})
    kept = {k: v for k, v in metadata.items() if k not in LEFT_OUT and k.removeprefix(PREFIX) not in INSIDE}
    texts = {"sketch": metadata[PREFIX + "sketch"], "probe": _text(probe(layers, scaled))}
    around = len(container.packed(scaled, {}, kept, code=b"")) + 64  # the header says how long the code is
    try:
        coded = encode(scaled, texts, most_bytes - around)
        texts["probe"] = _text(probe(layers, coded.vectors))
        coded = encode(scaled, texts, most_bytes - around)
    except VectorFitError as error:
        raise VectorFitError(f"{target}: {error}") from error
    container.write(target, coded.vectors, {}, kept, code=coded.data)
    load_vectors(models, target)
    return coded


def _text(numbers: list[float]) -> str:
    return json.dumps(numbers, separators=(",", ":"))
