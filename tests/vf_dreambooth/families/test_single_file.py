"""A checkpoint in a single file is known by its weights."""

import pytest
import torch
from safetensors.torch import save_file

from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve
from vf_dreambooth.families import family_at
from vf_dreambooth.families.single_file import checkpoint_type

# A weight by which each kind is recognised, as the published files have them.
WEIGHTS = {
    "Stable Diffusion XL": {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (2,)},
    "Stable Diffusion 1 or 2": {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    "Stable Diffusion 3": {
        "model.diffusion_model.pos_embed": (1, 147456, 1),
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
    },
    "Flux.1": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (2,),
        "guidance_in.in_layer.bias": (2,),
        "img_in.weight": (4, 64),
    },
}


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_family_of_a_file(tmp_path, name, ending):
    path, weights = tmp_path / f"model.{ending}", {key: torch.zeros(shape) for key, shape in WEIGHTS[name].items()}
    if ending == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    family = family_at(str(path))
    assert family.name == name
    assert resolve(str(path)).preset == family.preset(family.default_preset)


def test_what_is_no_known_base(tmp_path):
    save_file({"layers.0.adaLN_modulation.0.weight": torch.zeros(2)}, tmp_path / "z.safetensors")
    assert family_at(str(tmp_path / "z.safetensors")).name == "Z-Image"
    save_file({"single_stream_modulation.lin.weight": torch.zeros(2)}, tmp_path / "flux2.safetensors")
    with pytest.raises(VectorFitError, match=r"a checkpoint of flux-2-dev, expected a Stable Diffusion 1 or 2 or"):
        resolve(str(tmp_path / "flux2.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no checkpoint at all")
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint at all")
    for name in ("broken.safetensors", "broken.ckpt"):
        with pytest.raises(VectorFitError, match="cannot be loaded"):
            checkpoint_type(tmp_path / name)
