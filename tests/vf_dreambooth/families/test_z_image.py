"""What is Z-Image's own: prompts of different lengths, and a language model that is not adapted."""

import pytest
import torch

from tests.vf_dreambooth.families.tiny import tiny
from train_dreambooth_vectorfit import adapted
from vectorfit import VectorFitError
from vf_dreambooth.families.z_image import ZImage


def test_each_prompt_has_the_states_of_its_own_tokens():
    family, pipe = ZImage(), tiny(ZImage)
    prompts = ["a dog", "a photo of a dog on the beach"]
    states = family.denoiser(pipe).encode(family.tokenize(pipe, prompts))
    with torch.no_grad():
        theirs, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    assert len(states[0]) < len(states[1])
    for ours, expected in zip(states, theirs, strict=True):
        torch.testing.assert_close(ours, expected)


def test_samples_of_a_batch_do_not_see_each_others_prompts():
    family, pipe = ZImage(), tiny(ZImage)
    denoiser, ids = family.denoiser(pipe), family.tokenize(pipe, ["a dog", "a photo of a dog on the beach"])
    noisy, times, index = torch.randn(3, 4, 8, 8), torch.tensor([900.0, 500.0, 100.0]), torch.tensor([1, 0, 1])
    with torch.no_grad():
        together = denoiser(noisy, times, ids, index)
        for i in range(3):
            alone = denoiser(noisy[i : i + 1], times[i : i + 1], ids, index[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_asking_for_its_text_encoder_is_refused():
    with pytest.raises(VectorFitError, match="--train_text_encoder: a Z-Image reads prompts by a language model"):
        adapted(tiny(ZImage), train_text_encoder=True)
