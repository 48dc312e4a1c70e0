"""The base of the flow benchmark is trained as the family reads it."""

import torch

from benchmarks import flow_matching
from starter import tokenizer, world
from vf_dreambooth.families.z_image import ZImage


@torch.no_grad()
def test_its_training_asks_the_model_what_the_family_asks():
    pipe, family = flow_matching.build(), ZImage()
    assert family.why_unfit(pipe) == ""
    prompts = ["a photo of a dog in the snow", "sks cat"]
    words = pipe.tokenizer(
        prompts, padding="max_length", max_length=tokenizer.MAX_LENGTH, return_tensors="pt"
    ).input_ids
    noisy, times = torch.randn(2, *family.latent_shape(pipe, world.SIZE)), torch.tensor([900.0, 100.0])
    theirs = family.denoiser(pipe)(noisy, times, family.tokenize(pipe, prompts), torch.tensor([0, 1]))
    torch.testing.assert_close(flow_matching.TextToFlow(pipe)(noisy, times, words), theirs, atol=1e-5, rtol=1e-4)


def test_words_never_spoken_are_settled_among_the_names_that_were_and_the_names_cut_off():
    words = 7
    encoder = flow_matching.build().text_encoder
    encoder.resize_token_embeddings(words + 5)
    before = encoder.get_input_embeddings().weight.detach().clone()
    flow_matching.settle(encoder, torch.tensor([0, 1, 2, 3, 4, words + 1, words + 3]), words)
    after = encoder.get_input_embeddings().weight.detach()
    assert after.shape == (words, before.shape[1])
    assert torch.equal(after[:5], before[:5])
    spread = before[words + 3] - before[words + 1]
    for word in after[5:]:
        away = word - (before[words + 1] + before[words + 3]) / 2
        torch.testing.assert_close(away, spread * (away @ spread) / (spread @ spread), atol=1e-5, rtol=1e-4)
