import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vectorfit as vf


def three_vectors():
    """Three layers without bias: the vectors 0.sigma, 1.sigma, 2.sigma."""
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    vf.inject(net)
    return net, vf.vector_parameters(net)


def put(vectors, *values):
    with torch.no_grad():
        for vector, value in zip(vectors.values(), values, strict=True):
            vector.fill_(value)


def test_hand_computed_trace():
    # beta 0.5 keeps the arithmetic short. S' is 0 before the first AVF step; S_v is the mean |v_t - v_0|.
    net, vectors = three_vectors()
    avf = vf.AdaptiveVectorFreezing(net, first_step=3, every=2, num_freezes=3, top_k=1, beta=0.5)
    a, b, c = vectors
    put(vectors, 1.0, -4.0, 2.0)
    assert avf.step(1) == avf.step(2) == ()
    # step 3: S' = 0.5 S = (0.5, 2, 1)
    assert avf.step(3) == (b,)
    assert avf.averages() == {a: 0.5, b: 2.0, c: 1.0}
    # not an AVF step: nothing is measured, the set stays
    put(vectors, 100.0, 0.0, 0.0)
    assert avf.step(4) == (b,)
    assert avf.averages() == {a: 0.5, b: 2.0, c: 1.0}
    # step 5: S = (1, 1, 5), S' = (0.75, 1.5, 3)
    put(vectors, 1.0, 1.0, -5.0)
    assert avf.step(5) == (c,)
    assert avf.averages() == {a: 0.75, b: 1.5, c: 3.0}
    # step 7: S = (9, 1, 1), S' = (4.875, 1.25, 2); the last of three, so the set stays for good
    put(vectors, 9.0, 1.0, 1.0)
    assert avf.step(7) == (a,)
    assert avf.averages() == {a: 4.875, b: 1.25, c: 2.0}
    put(vectors, 0.0, 50.0, 0.0)
    assert [avf.step(step) for step in range(8, 14)] == [(a,)] * 6


@given(st.lists(st.floats(1e-4, 1e2), min_size=3, max_size=3), st.lists(st.floats(0.01, 10.0), min_size=3, max_size=3))
def test_relative_strengths_are_distances_over_rates(rates, distances):
    net, vectors = three_vectors()
    schedule = {"first_step": 1, "every": 1, "num_freezes": 2, "top_k": 1}
    absolute = vf.AdaptiveVectorFreezing(net, **schedule)
    relative = vf.AdaptiveVectorFreezing(net, **schedule, rates=dict(zip(vectors, rates, strict=True)))
    put(vectors, *distances)
    paper = absolute.strengths()
    assert list(paper.values()) == pytest.approx(distances, rel=1e-6)
    expected = {name: paper[name] / rate for name, rate in zip(vectors, rates, strict=True)}
    assert relative.strengths() == pytest.approx(expected)
    assert relative.step(1) == (max(sorted(expected), key=expected.get),)


def test_by_distance_the_highest_rate_is_frozen_and_by_its_own_steps_the_one_that_went_on():
    net, vectors = three_vectors()
    schedule, (a, b, c) = {"first_step": 1, "every": 1, "num_freezes": 1, "top_k": 1}, vectors
    rates = {a: 4e-2, b: 4e-3, c: 4e-3}
    put(vectors, 5 * 4e-2, 9 * 4e-3, 2 * 4e-3)  # five, nine and two of their own steps
    assert vf.AdaptiveVectorFreezing(net, **schedule).step(1) == (a,)
    assert vf.AdaptiveVectorFreezing(net, **schedule, rates=rates).step(1) == (b,)


@pytest.mark.parametrize("wrong", [{}, {"2.sigma": 0.0}, {"2.sigma": math.inf}, {"2.sigma": -1.0}])
def test_every_vector_needs_a_rate_above_zero(wrong):
    net, _ = three_vectors()
    rates = {"0.sigma": 1.0, "1.sigma": 1.0, **wrong}
    with pytest.raises(vf.VectorFitError, match=r"rates: 2\.sigma has .*expected a finite number above 0"):
        vf.AdaptiveVectorFreezing(net, first_step=1, every=1, num_freezes=1, top_k=1, rates=rates)


def test_the_default_beta_is_the_papers():
    net, vectors = three_vectors()
    avf = vf.AdaptiveVectorFreezing(net, first_step=1, every=1, num_freezes=2, top_k=1)
    put(vectors, 1.0, 2.0, 3.0)
    avf.step(1)
    avf.step(2)
    expected = [0.99 * 0.01 * s + 0.01 * s for s in (1.0, 2.0, 3.0)]
    assert list(avf.averages().values()) == pytest.approx(expected)


def test_frozen_vectors_do_not_move_at_all_under_adamw_with_momentum_and_decay():
    net, vectors = three_vectors()
    net.train()
    avf = vf.AdaptiveVectorFreezing(net, first_step=4, every=3, num_freezes=2, top_k=1)
    optimizer = torch.optim.AdamW(vectors.values(), lr=0.1, weight_decay=0.5, betas=(0.9, 0.999))
    ever_frozen = set()
    for step in range(1, 12):
        net(torch.randn(8, 4)).square().mean().backward()
        frozen = avf.step(step)
        before = {name: v.detach().clone() for name, v in vectors.items()}
        moments = {name: optimizer.state[vectors[name]]["exp_avg"].clone() for name in frozen}
        optimizer.step()
        optimizer.zero_grad()
        assert {name for name, v in vectors.items() if torch.equal(v, before[name])} == set(frozen)
        assert all(torch.equal(optimizer.state[vectors[name]]["exp_avg"], moments[name]) for name in frozen)
        assert all(v.requires_grad for v in vectors.values())
        ever_frozen |= set(frozen)
    assert ever_frozen


def test_frozen_gradients_do_not_count_in_the_clipped_norm():
    net, vectors = three_vectors()
    net.train()
    avf = vf.AdaptiveVectorFreezing(net, first_step=1, every=1, num_freezes=1, top_k=1)
    net(torch.randn(8, 4)).sum().backward()
    (frozen,) = avf.step(1)
    rest = torch.stack([v.grad.norm() for name, v in vectors.items() if name != frozen]).norm()
    torch.testing.assert_close(nn.utils.clip_grad_norm_(vectors.values(), 1e9), rest)


def test_resumed_mid_schedule_equals_uninterrupted():
    def run(avf, net, steps, values):
        trace = []
        for step in steps:
            put(vf.vector_parameters(net), *values[step])
            trace.append(avf.step(step))
        return trace

    values = torch.rand(20, 3).tolist()
    settings = {"first_step": 2, "every": 3, "num_freezes": 5, "top_k": 1}
    net, _ = three_vectors()
    whole = run(vf.AdaptiveVectorFreezing(net, **settings), net, range(1, 20), values)
    first = vf.AdaptiveVectorFreezing(net, **settings)
    trace = run(first, net, range(1, 9), values)
    second = vf.AdaptiveVectorFreezing(net, **settings)
    second.load_state_dict(first.state_dict())
    assert trace + run(second, net, range(9, 20), values) == whole


def test_a_step_given_twice_counts_once_and_going_back_is_refused():
    net, vectors = three_vectors()
    avf = vf.AdaptiveVectorFreezing(net, first_step=1, every=1, num_freezes=9, top_k=1)
    put(vectors, 1.0, 2.0, 3.0)
    avf.step(1)
    once = avf.averages()
    avf.step(1)
    assert avf.averages() == once
    avf.step(5)
    with pytest.raises(vf.VectorFitError, match="got 4 after 5"):
        avf.step(4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"top_k": 3}, "expected 0 to 2: the models have 3 vectors"),
        ({"first_step": 0}, "first_step: got 0"),
        ({"every": 0}, "every: got 0"),
        ({"beta": 1.0}, "beta: got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(setting, message):
    net, _ = three_vectors()
    with pytest.raises(vf.VectorFitError, match=message):
        vf.AdaptiveVectorFreezing(net, **{"first_step": 1, "every": 1, "num_freezes": 1, "top_k": 1, **setting})


def test_a_foreign_state_is_refused():
    net, _ = three_vectors()
    avf = vf.AdaptiveVectorFreezing(net, first_step=1, every=1, num_freezes=1, top_k=1)
    with pytest.raises(vf.VectorFitError, match="other vectors"):
        avf.load_state_dict({"frozen": [], "averages": {"x.sigma": 0.0}, "last_step": 3})
