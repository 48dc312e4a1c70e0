"""What the text encoder of a base reads of a prompt: its tokens, and what it cuts off."""

import functools
import html
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vf_dreambooth.base_models import BaseModel


@functools.lru_cache(maxsize=8)
def _tokenizer(location: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer in a base's folder; None where it is not on this disk: counting downloads nothing."""
    folder = Path(location) / "tokenizer"
    return AutoTokenizer.from_pretrained(folder) if folder.is_dir() else None


def count(prompt: str, base: BaseModel) -> tuple[int, int, str] | None:
    """(tokens, tokens that are read, what is cut off); None if the base's tokenizer is not on this disk."""
    tokenizer = _tokenizer(base.location)
    if tokenizer is None:
        return None
    most = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    words = prompt.split()
    total = len(tokenizer.tokenize(prompt))
    kept = len(words)
    while kept and len(tokenizer.tokenize(" ".join(words[:kept]))) > most:
        kept -= 1
    return total, most, " ".join(words[kept:])


def as_html(prompt: str, base: BaseModel) -> str:
    """The count for the page, with what is cut off."""
    counted = count(prompt, base)
    if counted is None:
        return ""
    total, most, cut = counted
    text = f'<span class="count">{total} of {most} tokens</span>'
    if cut:
        text += f' <span class="cut" role="alert">Not read, the prompt is too long: <s>{html.escape(cut)}</s></span>'
    return text
