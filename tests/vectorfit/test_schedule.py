"""When Adaptive Vector Freezing freezes."""

import pytest

import vectorfit as vf


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 1000])
def test_derived_schedule(steps):
    schedule = vf.avf_schedule(steps)
    assert schedule.first_step == max(1, round(0.35 * steps))
    assert schedule.every == max(1, round(0.03 * steps))
    assert sum(step in schedule for step in range(1, 10 * steps + 20)) == schedule.num_freezes == 10


def test_the_guideline_by_epochs():
    # SST-2 has 67,349 examples: 2,105 steps of 32; the paper takes t_i = 23,200, t_f = 2,100, n_f = 10.
    schedule = vf.avf_schedule(steps_per_epoch=2105)
    assert schedule == vf.AvfSchedule(23_155, 2105, 10)
    for wrong in ({}, {"total_steps": 5, "steps_per_epoch": 5}, {"steps_per_epoch": 0}):
        with pytest.raises(vf.VectorFitError):
            vf.avf_schedule(**wrong)
