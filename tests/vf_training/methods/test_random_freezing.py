import torch
from torch import nn

import vectorfit as vf
from vf_training.methods.random_freezing import RandomVectorFreezing

SCHEDULE = {"first_step": 1, "every": 1, "num_freezes": 20, "top_k": 2}


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    vf.inject(net)
    return net


def test_random_freezing_is_the_same_everywhere_and_new_every_time():
    nets = [model(), model()]
    freezers = [RandomVectorFreezing(net, **SCHEDULE) for net in nets]
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


def test_every_seed_freezes_other_vectors():
    def frozen(seed):
        freezer = RandomVectorFreezing(model(), seed=seed, **SCHEDULE)
        return [freezer.step(step) for step in range(1, 21)]

    assert frozen(7) == frozen(7)
    assert frozen(0) == frozen(0) != frozen(1)
