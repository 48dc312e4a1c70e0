"""Prompts are encoded once by what is frozen."""

import torch

from vf_dreambooth.families.text import FrozenText


def test_each_prompt_is_encoded_once_and_in_its_place():
    seen = []

    def encode(ids):
        seen.append(ids.tolist())
        return ids.float()[..., None].expand(-1, -1, 2)

    text = FrozenText(encode)
    first, second, again = text(torch.tensor([[1, 2], [3, 4], [1, 2]]))
    assert torch.equal(first, again)
    assert second[:, 0].tolist() == [3, 4]
    assert text(torch.tensor([[3, 4]]))[0][:, 1].tolist() == [3, 4]
    assert seen == [[[1, 2]], [[3, 4]]]


def test_no_gradient_is_kept():
    weight = torch.ones(1, requires_grad=True)
    assert not FrozenText(lambda ids: ids * weight)(torch.tensor([[1.0]]))[0].requires_grad
