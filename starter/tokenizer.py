"""The starter's tokenizer: CLIP's byte-level BPE with a vocabulary learned from the world's few words."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from . import world

MAX_LENGTH = 48  # tokens; DreamBench's longest prompt takes 18

# Words of the DreamBench prompts and of common requests that the world's captions do not use. Their embeddings stay as
# they were initialised: known to the tokenizer, unknown to the model. `sks` is the rare token that subjects take.
UNUSED = (
    "sks wearing a red hat santa rainbow scarf black top and monocle chef outfit firefighter police pink glasses "
    "yellow shirt purple wizard shiny wet cube shaped tree autumn leaves Eiffel Tower ocean milk green grass "
    "sunflowers around it mirror sidewalk crowded dirt road white toy stuffed animal cartoon the my two of at night "
    "painting drawing style"
)


def corpus() -> list[str]:
    """Every word the tokenizer should know as one token."""
    captions = [*world.CLASSES, *world.COLORS, *world.BACKGROUNDS, "a photo of a picture of an"]
    return " ".join([*captions, UNUSED]).lower().split()


def build() -> CLIPTokenizer:
    """A CLIPTokenizer whose vocabulary holds all bytes, inside and at the end of a word, so that any text tokenises."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=4000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(sorted(set(corpus())), trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    units = [*alphabet, *(unit + "</w>" for unit in alphabet), *("".join(pair) for pair in merges)]
    units = [*dict.fromkeys(units), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {unit: index for index, unit in enumerate(units)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def _merges(learner: Tokenizer) -> list[list[str]]:
    return json.loads(learner.to_str())["model"]["merges"]
