"""The role of a layer in its transformer block, by its path: attention, feed-forward or other."""

import re

ATTENTION, FEED_FORWARD, OTHER = "attention", "feed-forward", "other"

# The names that transformers' and diffusers' models give the parts of a block. UNet's `attentions` is a list of whole
# blocks, feed-forward included, so the word must end there.
_FEED_FORWARD = re.compile(
    r"ff(_context)?|ffn|mlp|proj_mlp|feed_?forward|fc\d|intermediate|wi(_\d)?|wo|(gate|up|down)_proj|densereludense|c_fc"
)
_ATTENTION = re.compile(r".*(attn|attention)\d*")


def role(path: str) -> str:
    """The role of the layer at a path, by names of BERT, DeBERTa, BART, T5, ViT, CLIP, GPT-2, Llama, UNets, DiTs."""
    parts = path.lower().split(".")
    if any(_FEED_FORWARD.fullmatch(part) for part in parts):
        return FEED_FORWARD
    if any(_ATTENTION.fullmatch(part) for part in parts):
        return ATTENTION
    return FEED_FORWARD if parts[-2:] == ["output", "dense"] else OTHER  # BERT's second feed-forward layer
