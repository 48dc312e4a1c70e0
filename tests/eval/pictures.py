"""Pictures and encoders whose scores can be worked out by hand."""

import numpy as np
import torch
from PIL import Image

from eval.encoders import Encoder, Encoders
from eval.protocols import Preprocess

PLAIN = Preprocess(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


def flat(color, side=16):
    return Image.new("RGB", (side, side), color)


def noise(seed, side=32):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def mean_color(images):
    return images.mean((2, 3))


def word_color(texts):
    """The first colour that each text names; white where it names none."""
    known = [[WORDS[word] for word in text.split() if word in WORDS] for text in texts]
    return torch.tensor([colors[0] if colors else (1.0, 1.0, 1.0) for colors in known])


def toys():
    """Encoders that see the mean colour of a picture, and read the colour that a prompt names."""
    dino = Encoder("mean colour", PLAIN, "0" * 64, True, mean_color)
    return Encoders(dino, Encoder("mean colour and words", PLAIN, "1" * 64, True, mean_color, word_color))
