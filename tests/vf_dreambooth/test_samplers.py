"""The data of runs: computed once, and shared by those of one class."""

from accelerate import Accelerator

from vf_dreambooth import samplers
from vf_dreambooth.base_models import load
from vf_dreambooth.setup import prepare


def test_runs_of_one_class_share_the_latents_of_its_images(arguments, whole, tmp_path, monkeypatch):
    (setup,), _ = prepare(arguments(tmp_path / "another"))
    encoded = []
    original = samplers.encode_images

    def encode(pipe, pictures, *more):
        encoded.append(len(pictures))
        return original(pipe, pictures, *more)

    monkeypatch.setattr(samplers, "encode_images", encode)
    pipe, accelerator, priors = load(setup.base), Accelerator(), {}
    first, second = (samplers.build_data_sampler(setup, pipe, accelerator, priors) for _ in range(2))
    assert first.prior is second.prior
    assert encoded == [3]  # the class images, once
    samplers.build_data_sampler(setup, pipe, accelerator)
    assert encoded == [3, 3]
