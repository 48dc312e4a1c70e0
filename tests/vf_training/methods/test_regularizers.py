import pytest
import torch
from torch import nn

import vectorfit as vf
from vf_training.methods.regularizers import l1, set_sigma_dropout, weak_l1


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    vf.inject(net)
    return net


def test_l1_is_the_sum_of_absolute_deltas_and_its_gradient_their_signs():
    net = model()
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.fill_(-2.0)
    assert l1(net) == 2 * 160
    assert weak_l1(net).item() == pytest.approx(1e-5 * 2 * 160)
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


def test_dropout_is_refused_where_more_than_a_diagonal_is_trained():
    net = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    vf.inject(net, vf.VectorFitConfig(pattern="banded"))
    with pytest.raises(vf.VectorFitError, match="wider than the diagonal"):
        set_sigma_dropout(net, 0.1)
