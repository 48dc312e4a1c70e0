"""Prompts as token ids, and text encoders that are never trained."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int | None = None) -> Tensor:
    """Token ids [p, length], padded and cut; without a length to the tokenizer's own."""
    return tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=length or tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


class FrozenText:
    """What a text encoder that is never trained makes of prompts: each is encoded once, and kept in main memory.

    It is no module, so that the encoder is neither wrapped with the trained models nor moved with them: it works where
    it is, and may rest in main memory.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor]) -> None:
        self._encode = encode
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> list[Tensor]:
        """What `encode` gives for each row of ids [p, length], on their device."""
        rows = [tuple(row) for row in ids.tolist()]
        with torch.autocast(ids.device.type, enabled=False):  # in float16 T5 overflows
            for index, row in enumerate(rows):
                if row not in self._known:
                    self._known[row] = self._encode(ids[index : index + 1])[0].cpu()
        return [self._known[row].to(ids.device) for row in rows]
