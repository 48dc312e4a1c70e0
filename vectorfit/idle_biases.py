"""Biases that no output depends on: those of attention's keys, where nothing but a softmax reads the keys.

softmax_j(q . (k_j + b)) = softmax_j(q . k_j), because q . b is the same for every key j. The gradient of such a bias is
rounding noise, which Adam scales up to full steps, and Adaptive Vector Freezing would count these steps as training.
"""

from .modules import Models, join, named_modules

# The layer of the keys by the class of the attention around it. All other keys' biases are trained: with rotary
# positions, norms of keys or DeBERTa's disentangled attention the output depends on them. CLIP's and ViT's are idle
# too, but the paper counts them among its parameters.
KEYS = dict.fromkeys(
    ("BertSelfAttention", "RobertaSelfAttention", "XLMRobertaSelfAttention", "ElectraSelfAttention"), "key"
)
KEYS |= {"CamembertSelfAttention": "key", "DistilBertSelfAttention": "k_lin"}


def idle_biases(models: Models) -> frozenset[str]:
    """The paths of the layers whose bias changes no output."""
    attentions = ((path, KEYS.get(type(module).__name__)) for path, module in named_modules(models))
    return frozenset(join(path, key) for path, key in attentions if key)
