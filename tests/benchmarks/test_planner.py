"""What timing the planner's layers would save: which layers are counted, and how the sums are made."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from benchmarks import planner
from vectorfit.layers import VectorFitLayer


class Net(nn.Module):
    """One layer for 3 x 4 tokens, called twice, and one for 3 x 8."""

    def __init__(self):
        super().__init__()
        self.twice, self.once = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self):
        x = torch.randn(3, 4, 6)
        return self.once(torch.cat([self.twice(self.twice(x))] * 2, 1))


@pytest.fixture
def net():
    net = Net()
    vf.inject(net)
    return net.train()


def test_layers_are_counted_by_shape_and_tokens(net):
    cases = planner.cases_of({"net": net}, net)
    assert {case: len(layers) for case, layers in cases.items()} == {(6, 6, 12): 2, (5, 6, 24): 1}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_both_ways_are_timed_and_the_planner_is_as_before(net, dtype, monkeypatch):
    own, used = VectorFitLayer.factored_is_cheaper, []
    for name in ("FactoredProduct", "DenseProduct"):
        product = getattr(planner.vf.layers, name)
        monkeypatch.setattr(
            planner.vf.layers,
            name,
            type(name, (), {"apply": lambda *a, n=name, p=product: used.append(n) or p.apply(*a)}),
        )
    times = planner.seconds_of(net.once, 24, dtype)
    assert min(times) > 0
    assert used[:4] == ["FactoredProduct", "DenseProduct"] * 2
    assert VectorFitLayer.factored_is_cheaper is own


def test_what_timing_would_save_is_the_time_of_the_slower_choices(net, monkeypatch):
    monkeypatch.setattr(planner, "seconds_of", lambda layer, *_: (5.0, 3.0) if layer is net.twice else (1.0, 9.0))
    monkeypatch.setattr(VectorFitLayer, "factored_is_cheaper", lambda *_: True)
    found = planner.measure({"net": net}, net, None)
    assert found == {"calls": 3, "slower": 2, "seconds": 11.0, "saved": 4.0}
