"""Random numbers as pure functions of seed and purpose, so that one use never changes another."""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator for (seed, purpose, index). It gives the same numbers on every machine and in every process."""
    digest = hashlib.sha256(repr((seed, purpose, index)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def stacked_normal(shape: tuple[int, ...], seed: int, purpose: str, step: int, indices: range) -> Tensor:
    """Standard normal [len(indices), *shape]; each row depends only on its own index."""
    return torch.stack([torch.randn(shape, generator=generator(seed, purpose, step, i)) for i in indices])


def stacked_integers(high: int, seed: int, purpose: str, step: int, indices: range) -> Tensor:
    """Uniform integers [len(indices)] in 0..high-1, one per index."""
    return torch.cat([torch.randint(high, (1,), generator=generator(seed, purpose, step, i)) for i in indices])


def stacked_uniform(seed: int, purpose: str, step: int, indices: range) -> Tensor:
    """Uniform numbers [len(indices)] from 0 to 1, one per index."""
    return torch.cat([torch.rand(1, generator=generator(seed, purpose, step, i)) for i in indices])


def shuffled_position(count: int, position: int, seed: int, purpose: str) -> int:
    """Element `position` of an endless sequence that repeats 0..count-1, each time in a new order."""
    epoch, offset = divmod(position, count)
    return int(torch.randperm(count, generator=generator(seed, purpose, epoch))[offset])
