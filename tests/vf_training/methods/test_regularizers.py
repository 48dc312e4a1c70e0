import pytest
import torch
from torch import nn

import vectorfit as vf
from vf_training.methods.regularizers import RandomVectorFreezing, l1, set_sigma_dropout


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    vf.inject(net)
    return net


def test_random_freezing_is_the_same_everywhere_and_new_every_time():
    nets = [model(), model()]
    freezers = [RandomVectorFreezing(net, first_step=1, every=1, num_freezes=20, top_k=2) for net in nets]
    chosen = []
    for step in range(1, 21):
        frozen = [freezer.step(step) for freezer in freezers]
        assert frozen[0] == frozen[1]
        assert len(frozen[0]) == 2
        chosen.append(frozen[0])
    assert len(set(chosen)) > 5
    assert set().union(*chosen) == set(vf.vector_parameters(nets[0]))


def test_random_freezing_holds_vectors_still():
    net = model().train()
    freezer = RandomVectorFreezing(net, first_step=1, every=100, num_freezes=1, top_k=2)
    optimizer = torch.optim.AdamW(vf.vector_parameters(net).values(), lr=0.1, weight_decay=0.1)
    for step in range(1, 4):
        net(torch.randn(4, 40)).square().sum().backward()
        frozen = freezer.step(step)
        optimizer.step()
        optimizer.zero_grad()
    for name, vector in vf.vector_parameters(net).items():
        assert (vector.abs().sum() == 0) == (name in frozen)


def test_l1_is_the_sum_of_absolute_deltas_and_its_gradient_their_signs():
    net = model()
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.fill_(-2.0)
    assert l1(net) == 2 * 160
    l1(net).backward()
    assert all((vector.grad == -1).all() for vector in vf.vector_parameters(net).values())


def test_dropout_drops_singular_values_in_training_and_is_right_on_average():
    net, x = model(), torch.randn(3, 40)
    expected = net.eval()(x)
    set_sigma_dropout(net, 0.3)
    assert torch.equal(net(x), expected)
    net.train()
    with torch.enable_grad():
        first = torch.stack([net[0](x) for _ in range(2000)])
    assert first[0].ne(first[1]).any()
    exact = net[0].eval()(x)
    torch.testing.assert_close(first.mean(0), exact, atol=0.1, rtol=0.1)
    with pytest.raises(vf.VectorFitError, match="expected at least 0 and below 1"):
        set_sigma_dropout(net, 1.0)
