"""Small models to adapt, and what they answer."""

import peft
import torch
from diffusers import UNet2DConditionModel
from transformers import BertConfig, BertForSequenceClassification

import vectorfit as vf
import vectorfit.peft as vp


def bert(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=40, **sizes, **options)).eval()


def words(seed=0):
    return torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(seed))


def tuned(model=None, **settings):
    return peft.get_peft_model(model or bert(), vp.VectorFitConfig(**settings)).eval()


@torch.no_grad()
def disturb(model, seed=1, std=0.1):
    generator = torch.Generator().manual_seed(seed)
    for vector in vf.vector_parameters(model).values():
        vector.copy_(std * torch.randn(vector.shape, generator=generator))
    return model


def logits(model, seed=0):
    with torch.no_grad():
        return model(words(seed)).logits


def plain_state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()


def denoised(model):
    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 3, 8, generator=generator)
    with torch.no_grad():
        return model(x, 3, c).sample
