"""The starter's tokenizer: CLIP's byte-level BPE with a vocabulary learned from the world's few words."""

from collections import Counter
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from . import world

END = "</w>"  # marks the unit that ends a word
MAX_LENGTH = 32  # tokens; DreamBench's longest prompt takes 18

# Words of the DreamBench prompts and of common requests that the world's captions do not use. No caption
# trains their embeddings; train_unet.settle_words sets them. `sks` is the rare token that subjects take.
UNUSED = (
    "sks wearing santa rainbow scarf top and monocle chef outfit firefighter police wizard shiny wet "
    "cube shaped mirror sidewalk crowded toy stuffed animal cartoon the my two at night painting drawing style can "
    "teapot plushie fancy colorful grey brown gold silver big small little old new cute photo holding under behind "
    "inside near room kitchen garden park street sky sunset rain space moonlight"
)


def corpus() -> list[str]:
    """Every word the tokenizer should know as one token."""
    captions = [*world.CLASSES, *world.COLORS, *world.PATTERNS, *world.BACKGROUNDS, world.NEXT_TO]
    captions.append("a photo of a picture of an")
    return " ".join([*captions, UNUSED]).lower().split()


def build() -> CLIPTokenizer:
    """A CLIPTokenizer whose vocabulary holds all bytes, inside and at the end of a word, so that any text tokenises."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(corpus())
    units = [*alphabet, *(unit + END for unit in alphabet), *("".join(pair) for pair in merges)]
    units = [*dict.fromkeys(units), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {unit: index for index, unit in enumerate(units)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token: always the commonest pair, the first in order among equals.

    The tokenizers library breaks such ties differently from run to run, which would renumber the vocabulary.
    """
    pieces = [[*word[:-1], word[-1] + END] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for unit in word:
        if result and (result[-1], unit) == pair:
            result[-1] += unit
        else:
            result.append(unit)
    return result
