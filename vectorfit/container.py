"""The container of every file of ours: safetensors, with metadata about its contents and a hash of its tensors.

Subject files and the files of other methods are written and verified here alone; `docs/file-format.md` lists the keys.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from . import coding
from .atomic import PathLike, write_atomically
from .errors import VectorFitError
from .fingerprint import tensors_sha256

FORMAT_VERSION = "1"
CODED_VERSION = "2"  # the tensors are in a code, see `coding`; everything else is as in version 1
CODE, EMPTY = "code", torch.empty(0, dtype=torch.uint8)
PREFIX = "vectorfit."  # of our keys in the file's metadata


def write(
    path: PathLike,
    tensors: Mapping[str, Tensor],
    own: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
    code: bytes | None = None,
) -> None:
    """Writes tensors with our keys `own` (without their prefix) and other `metadata`. Equal inputs give equal bytes.

    With `code`, of `coding.encode`, the file holds that; `tensors` are what it stands for.

    Raises:
        VectorFitError: a tensor is not finite, or the file cannot be written; nothing was changed.
    """
    broken = [name for name, tensor in sorted(tensors.items()) if not torch.isfinite(tensor).all()]
    if broken:
        raise VectorFitError(f"{path}: not written, {broken[0]} and {len(broken) - 1} more hold NaN or infinity")
    write_atomically(path, packed(tensors, own, metadata, code))


def packed(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
    code: bytes | None = None,
) -> bytes:
    """The bytes that `write` writes."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    version = FORMAT_VERSION if code is None else CODED_VERSION
    ours = {"format_version": version, **own, "vectors_sha256": tensors_sha256(kept), "num_vectors": str(len(kept))}
    header = {"format": "pt", **(metadata or {}), **{PREFIX + key: value for key, value in ours.items()}}
    held = kept if code is None else {CODE: torch.frombuffer(bytearray(code), dtype=torch.uint8) if code else EMPTY}
    return _sorted_header(save(held, header))


def _sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys in order: the writer shuffles them from run to run."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = {"__metadata__": header.pop("__metadata__"), **dict(sorted(header.items()))}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def read(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file; `require_untouched` says whether they are those it was written with.

    Raises:
        VectorFitError: it cannot be read, is cut short, is not ours, or is of a later version.
    """
    try:
        data = Path(path).read_bytes()
        tensors = load(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except OSError as error:
        raise _unreadable(path, error) from error
    except (SafetensorError, ValueError, struct.error) as error:
        raise _damaged(path, error) from error
    _require_ours(path, metadata)
    if metadata[PREFIX + "format_version"] == CODED_VERSION:
        try:
            tensors, texts = coding.decode(tensors[CODE].numpy().tobytes())
        except (ValueError, LookupError, TypeError, RuntimeError, struct.error, zlib.error) as error:
            raise _damaged(path, error) from error
        metadata |= {PREFIX + key: text for key, text in texts.items()}
    return tensors, metadata


def read_metadata(path: PathLike) -> dict[str, str]:
    """The metadata of a file of ours; only its header is read.

    Raises:
        VectorFitError: it cannot be read, is cut short, is not ours, or is of a later version.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise _damaged(path, error) from error
    _require_ours(path, metadata)
    return metadata


def require_untouched(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raises VectorFitError where a file's tensors are not those it was written with."""
    if metadata.get(PREFIX + "vectors_sha256") != tensors_sha256(tensors):
        raise VectorFitError(f"{path}: its vectors are not those it was written with; fetch or train it again")


def heads_of(path: PathLike, metadata: Mapping[str, str]) -> list[str]:
    """The canonical paths of the modules trained whole in a file. Raises VectorFitError when the list is damaged."""
    try:
        return [str(head) for head in json.loads(metadata.get(PREFIX + "modules_to_save", "[]"))]
    except (ValueError, TypeError) as error:
        raise VectorFitError(f"{path}: its list of modules trained whole is damaged ({error})") from error


def _unreadable(path: PathLike, error: OSError) -> VectorFitError:
    reason = error.strerror or error
    return VectorFitError(f"{path}: cannot be read ({reason}); expected a VectorFit .safetensors file")


def _damaged(path: PathLike, error: Exception) -> VectorFitError:
    return VectorFitError(f"{path}: not a whole safetensors file ({error}); fetch or train it again")


def _require_ours(path: PathLike, metadata: Mapping[str, str]) -> None:
    version = metadata.get(PREFIX + "format_version")
    if version is None:
        raise VectorFitError(
            f"{path}: a safetensors file, but not one of VectorFit's: it has no {PREFIX}format_version"
        )
    if version not in (FORMAT_VERSION, CODED_VERSION):
        expected = f"{FORMAT_VERSION} or {CODED_VERSION}"
        raise VectorFitError(f"{path}: format version {version}, expected {expected}; a newer vectorfit reads it")
