"""Deltas in few bytes: whole numbers of at most 8 bits times a scale for each vector, in zlib's Huffman code.

The number of bits follows from the scales: no code takes fewer bits than the entropy of its numbers, so a file of fewer
bytes needs coarser numbers.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import VectorFitError

LARGEST = 127  # of the whole numbers
_LONGEST_HEADER = 2**24  # bytes; of a damaged file no more is unpacked


@dataclass(frozen=True)
class Coded:
    """Coded vectors: `data` is what a file holds, `vectors` what a reader gets, `scales` by name.

    No number differs from its original by more than half its vector's scale; `error` is the norm of all differences
    over the norm of all numbers, which is the relative error of dW and of the biases.
    """

    data: bytes
    vectors: dict[str, Tensor]
    scales: dict[str, float]
    error: float
    bits: float  # a number, without names, scales and texts


def encode(vectors: Mapping[str, Tensor], texts: Mapping[str, str], most_bytes: int) -> Coded:
    """Codes vectors [n], as finely as `most_bytes` allow, at most in 8 bits, and texts beside them, without loss.

    All vectors have one step where that is coarser than a 127th of their largest number: of all codes of this size
    with equal steps that one has the smallest norm of dW's error.

    Raises:
        VectorFitError: not even the coarsest numbers fit.
    """
    finest = _coded(vectors, texts, 0.0)
    if len(finest.data) <= most_bytes:
        return finest
    low, high = 0.0, 4 * max(float(vector.abs().max()) for vector in vectors.values())
    best = _coded(vectors, texts, high)
    if len(best.data) > most_bytes:
        raise VectorFitError(
            f"{len(vectors)} vectors take {len(best.data):,} bytes at least, got {most_bytes:,}; allow more bytes"
        )
    for _ in range(16):
        step = (low + high) / 2
        tried = _coded(vectors, texts, step)
        low, high = (step, high) if len(tried.data) > most_bytes else (low, step)
        best = tried if high == step else best
    return best


def _coded(vectors: Mapping[str, Tensor], texts: Mapping[str, str], step: float) -> Coded:
    """Vectors coded with this step, or one for each vector of a 127th of its largest number where that is more."""
    names = sorted(vectors)
    largest = torch.stack([vectors[name].float().abs().max() for name in names])
    scales = torch.maximum(largest / LARGEST, torch.full_like(largest, step))
    sizes = torch.tensor([len(vectors[name]) for name in names])
    values = torch.cat([vectors[name].float() for name in names])
    own = scales.repeat_interleave(sizes)
    # A vector of zeros has the scale 0 where the step is 0.
    numbers = torch.where(own > 0, values / own, torch.zeros_like(values)).round().clamp(-LARGEST, LARGEST)
    numbers = numbers.to(torch.int8)
    head = json.dumps({"names": names, "sizes": sizes.tolist(), "texts": dict(texts)}, separators=(",", ":"))
    packed, codes = zlib.compress(head.encode(), 9), _packed(numbers)
    data = struct.pack("<I", len(packed)) + packed + scales.numpy().astype("<f4").tobytes() + codes
    decoded = numbers.float() * own
    difference = torch.linalg.vector_norm(decoded - values) / torch.linalg.vector_norm(values).clamp(min=1e-30)
    by_name = dict(zip(names, torch.split(decoded, sizes.tolist()), strict=True))
    bits = 8 * len(codes) / max(1, len(values))
    return Coded(data, by_name, dict(zip(names, scales.tolist(), strict=True)), float(difference), bits)


def _packed(numbers: Tensor) -> bytes:
    """Whole numbers as bytes, several small ones in one, in Huffman code: its codes have one bit at least."""
    reach = int(numbers.abs().max()) if len(numbers) else 0
    base, count = 2 * reach + 1, _numbers_in_a_byte(reach)
    padding = torch.zeros(-len(numbers) % count, dtype=torch.int64)
    digits = (torch.cat([numbers.long(), padding]) + reach).view(-1, count)
    joined = (digits * base ** torch.arange(count)).sum(1).to(torch.uint8)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return bytes([reach]) + packer.compress(joined.numpy().tobytes()) + packer.flush()


def _numbers_in_a_byte(reach: int) -> int:
    """How many numbers from -reach to reach a byte holds."""
    count = 1
    while (2 * reach + 1) ** (count + 1) <= 256 and count < 8:
        count += 1
    return count


def _unpacked(data: bytes, length: int) -> Tensor:
    reach = data[0]
    base, count = 2 * reach + 1, _numbers_in_a_byte(reach)
    unpacker = zlib.decompressobj(-15)
    joined = unpacker.decompress(data[1:], -(-length // count) + 1)
    numbers = torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()[:, None]
    digits = numbers // base ** torch.arange(count) % base - reach
    if digits.numel() < length:
        raise ValueError(f"{digits.numel()} numbers, expected {length}")
    return digits.flatten()[:length].to(torch.int8)


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The vectors [n], float32, and the texts of `encode`'s data.

    Raises:
        ValueError, zlib.error, struct.error, KeyError, IndexError: it is damaged.
    """
    (length,) = struct.unpack("<I", data[:4])
    unpacker = zlib.decompressobj()
    head = json.loads(unpacker.decompress(data[4 : 4 + length], _LONGEST_HEADER))
    names, sizes = list(head["names"]), [int(size) for size in head["sizes"]]
    end = 4 + length + 4 * len(names)
    scales = torch.frombuffer(bytearray(data[4 + length : end]), dtype=torch.float32)
    numbers = _unpacked(data[end:], sum(sizes)).float()
    values = numbers * scales.repeat_interleave(torch.tensor(sizes))
    return dict(zip(names, torch.split(values, sizes), strict=True)), {str(k): str(v) for k, v in head["texts"].items()}
