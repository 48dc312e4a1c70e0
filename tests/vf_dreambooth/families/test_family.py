"""What all families share: presets by name, names for other tools, a denoiser that encodes each prompt once."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vectorfit import VectorFitError
from vf_dreambooth.families import FAMILIES, Denoiser, Preset
from vf_dreambooth.families.stable_diffusion import StableDiffusion


class Linear(Denoiser):
    """Predicts the noisy latents, scaled by the first number of the prompt's embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.encoded = nn.Embedding(10, 1), []

    def encode(self, prompt_ids):
        self.encoded.append(prompt_ids)
        return self.embedding(prompt_ids[:, 0])

    def predict(self, noisy, timesteps, encoded, prompt_index):
        return noisy * encoded[prompt_index][:, :, None, None] + timesteps[:, None, None, None]


def test_each_prompt_is_encoded_once_and_each_sample_gets_its_own():
    denoiser, noisy = Linear(), torch.randn(5, 2, 4, 4)
    prompts, index = torch.tensor([[3, 0], [7, 0]]), torch.tensor([1, 0, 1, 1, 0])
    prediction = denoiser(noisy, torch.arange(5), prompts, index)
    assert len(denoiser.encoded) == 1
    assert torch.equal(denoiser.encoded[0], prompts)
    for sample, prompt in enumerate(index):
        scale = denoiser.embedding.weight[prompts[prompt, 0], 0]
        torch.testing.assert_close(prediction[sample], noisy[sample] * scale + sample)


def test_all_samples_of_a_prompt_add_to_its_gradient():
    denoiser, index = Linear(), torch.tensor([1, 0, 1])
    denoiser(torch.ones(3, 1, 1, 1), torch.zeros(3), torch.tensor([[3], [7]]), index).sum().backward()
    gradient = denoiser.embedding.weight.grad.flatten()
    assert (gradient[3], gradient[7], gradient.count_nonzero()) == (1, 2, 2)


class Other(StableDiffusion):
    presets = {"a": Preset(512, 1e-4, 10, 5, 20, 7.5), "b": Preset(64, 1e-2, 20, 5, 10, 4.0)}  # noqa: RUF012
    default_preset = "b"


def test_a_base_has_its_own_preset_or_the_familys():
    assert Other().preset("a").resolution == 512
    assert Other().preset("anything").resolution == 64


def test_a_family_loads_the_first_of_its_pipelines_classes(tiny_base):
    class Repainting(StableDiffusion):
        pipeline_classes = ("StableDiffusionImg2ImgPipeline", "StableDiffusionPipeline")

    pipe = Repainting().load(str(tiny_base))
    assert type(pipe).__name__ == "StableDiffusionImg2ImgPipeline"
    assert not Repainting().why_unfit(pipe)


def test_a_tool_without_names_is_refused_with_those_there_are():
    with pytest.raises(VectorFitError, match="'a1111', expected one of diffusers, kohya for a Stable Diffusion"):
        Other().naming("a1111", None)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_complete(family):
    assert family.default_preset in family.presets
    assert family.pipeline_classes
    assert family.parts
    assert {"diffusers", family.diff_naming} <= family.namings.keys()
    empty = SimpleNamespace(**dict.fromkeys(family.parts))
    assert family.why_unfit(empty) == f"it lacks {', '.join(family.parts)}"
