"""One exception for every request that cannot be met; its message names the value that it got."""

import re

import pytest
import torch
from torch import nn

import vectorfit as vf

REQUESTS = {
    "'sigmas'": lambda folder: vf.VectorFitConfig(variant="sigmas"),
    "'to_z'": lambda folder: vf.inject(net(), vf.VectorFitConfig(target_modules=("to_z",))),
    "-1.0": lambda folder: vf.parameter_groups(vf.vector_parameters(net(injected=True)), {"*": -1.0}),
    "top_k": lambda folder: vf.AdaptiveVectorFreezing(
        net(injected=True), first_step=1, every=1, num_freezes=1, top_k=99
    ),
    "missing.safetensors": lambda folder: vf.load_vectors(net(), folder / "missing.safetensors"),
}


def net(injected=False):
    model = nn.Sequential(nn.Linear(4, 4))
    if injected:
        vf.inject(model)
    return model


@pytest.mark.parametrize("got", REQUESTS)
def test_what_cannot_be_met_is_a_value_error_that_says_what_it_got(got, tmp_path):
    with pytest.raises(ValueError, match=re.escape(got)) as error:
        REQUESTS[got](tmp_path)
    assert type(error.value) is vf.VectorFitError


def test_a_refused_request_leaves_the_model_as_it_was():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(vf.VectorFitError):
        vf.inject(model, vf.VectorFitConfig(target_modules=("to_z",)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
