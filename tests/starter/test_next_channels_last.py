"""Group norms and small convolutions in channels-last layout are torch's own, with their gradients."""

import copy

import pytest
import torch
from torch import nn

from starter.next.channels_last import lay_out

LAYERS = {
    "group norm": (nn.GroupNorm(4, 16), 8),
    "convolution of small maps": (nn.Conv2d(16, 24, 3, padding=1), 4),
    "convolution of large maps": (nn.Conv2d(16, 24, 3, padding=1), 8),
    "convolution of small maps without a border": (nn.Conv2d(16, 24, 3), 4),
    "strided convolution": (nn.Conv2d(16, 24, 3, stride=2, padding=1), 4),
    "convolution of single places": (nn.Conv2d(16, 24, 1), 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_gradients_are_those_of_torch(name):
    layer, side = LAYERS[name]
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    own = copy.deepcopy(layer)
    lay_out(own)
    x = torch.randn(3, 16, side, side, dtype=torch.float64) + 0.5
    inputs = [x.clone().requires_grad_(), x.clone(memory_format=torch.channels_last).requires_grad_()]
    outputs = [module(given) for module, given in zip((layer, own), inputs, strict=True)]
    gradient = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(gradient)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)  # sums are kept in float32
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(own.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-4)


def test_a_copy_has_its_own_layers():
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4))
    lay_out(module)
    other, x = copy.deepcopy(module), torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        other[0].weight.zero_()
    assert not torch.equal(module(x), other(x))
