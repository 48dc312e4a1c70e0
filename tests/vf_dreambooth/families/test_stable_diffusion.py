"""The loading paths of real checkpoints, on tiny models built from the config classes and saved as real ones are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.pipeline import GenerationSettings, base_of, generate_images, load_pipeline
from vf_training.runs import RunFolder

SAMPLING = GenerationSettings(num_inference_steps=2, guidance_scale=3.0, resolution=16)


@pytest.fixture
def copy(tiny_base, tmp_path) -> Path:
    shutil.copytree(tiny_base, tmp_path / "copy")
    return tmp_path / "copy"


def states(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "vae": pipe.vae}
    return {f"{part}.{name}": value for part, model in parts.items() for name, value in model.state_dict().items()}


def same(one: StableDiffusionPipeline, other: StableDiffusionPipeline) -> bool:
    first, second = states(one), states(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def with_level(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


@pytest.mark.parametrize("level", [True, False], ids=["with text_model", "without"])
def test_text_encoders_with_and_without_the_text_model_level(tiny_base, copy, tmp_path, arguments, level):
    file = copy / "text_encoder" / "model.safetensors"
    weights = {name.removeprefix("text_model."): value for name, value in load_file(file).items()}
    save_file({with_level(n) if level else n: v for n, v in weights.items()}, file, metadata={"format": "pt"})
    assert same(load(resolve(str(copy))), load(resolve(str(tiny_base))))
    # A subject trained on one loads on the other: names in the file are without the level.
    main(arguments(tmp_path / "run"))
    main(arguments(tmp_path / "other", "--base_model", copy))
    one, other = (load_file(tmp_path / name / "vectors.safetensors") for name in ("run", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    load_pipeline(resolve(str(copy)), [(tmp_path / "run", 1.0)], device="cpu")


def test_half_precision_variants(tiny_base, tmp_path, arguments):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base).to(torch.float16)
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    loaded = load(resolve(str(tmp_path / "half"), variant="fp16"))
    assert all(v.dtype == torch.float32 for v in states(loaded).values() if v.is_floating_point())
    main(arguments(tmp_path / "run", "--base_model", tmp_path / "half", "--variant", "fp16"))
    # The deltas are of the rounded weights, so the unrounded base refuses them with the reason.
    with pytest.raises(vf.VectorFitError, match="made for base weights with SHA-256"):
        load_pipeline(resolve(str(tiny_base)), [(tmp_path / "run", 1.0)], device="cpu")
    with pytest.raises(vf.VectorFitError, match="cannot be loaded"):
        load(resolve(str(tmp_path / "half")))
    # The run remembers the variant, so that what is made of it needs no flag.
    load_pipeline(base_of(tmp_path / "run"), [(tmp_path / "run", 1.0)], device="cpu")
    assert 'variant="fp16"' in (tmp_path / "run" / "README.md").read_text()


def test_a_revision_reaches_the_hub_library(monkeypatch):
    seen = {}

    def from_pretrained(location, **options):
        seen.update(options, location=location)
        raise OSError("offline")

    def load_config(location, revision):
        assert (location, revision) == ("someone/model", "abc123")
        return {"_class_name": "StableDiffusionPipeline"}

    monkeypatch.setattr(DiffusionPipeline, "load_config", load_config)
    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", from_pretrained)
    with pytest.raises(vf.VectorFitError, match="offline"):
        main(["--instance_dir", "examples/dog", "--base_model", "someone/model", "--revision", "abc123"])
    assert (seen["location"], seen["revision"]) == ("someone/model", "abc123")


@pytest.fixture
def checked(tiny_base, copy) -> Path:
    """The tiny base with a safety checker that finds every picture unsafe."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**sizes, "image_size": 16, "patch_size": 8, "projection_dim": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=8, vision_config=vision, text_config=sizes))
    torch.nn.init.constant_(checker.concept_embeds_weights, -2.0)  # cosine thresholds that everything exceeds
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.register_modules(
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )
    pipe.register_to_config(requires_safety_checker=True)
    shutil.rmtree(copy)
    pipe.save_pretrained(copy)
    return copy


def test_a_safety_checker_is_kept_but_does_not_blank_class_images(checked, arguments, tmp_path):
    pipe = load_pipeline(resolve(str(checked)), device="cpu")
    assert pipe.safety_checker is not None
    (picture,) = generate_images(pipe, ["a dog"], [0], SAMPLING)
    assert not np.asarray(picture).any()  # blanked
    main(arguments(tmp_path / "run", "--base_model", checked))
    main(arguments(tmp_path / "other" / "run"))
    (folder,) = (tmp_path / "class_images").iterdir()
    (unchecked,) = (tmp_path / "other" / "class_images").iterdir()
    for path in folder.glob("*.png"):
        assert path.read_bytes() == (unchecked / path.name).read_bytes()


def test_a_velocity_model_is_trained_on_velocities(tiny_base, copy, arguments, tmp_path):
    settings = copy / "scheduler" / "scheduler_config.json"
    config = json.loads(settings.read_text())
    settings.write_text(json.dumps({**config, "prediction_type": "v_prediction"}))
    assert load(resolve(str(copy))).scheduler.config.prediction_type == "v_prediction"
    main(arguments(tmp_path / "velocity", "--base_model", copy, "--prior", "none"))
    main(arguments(tmp_path / "noise", "--prior", "none"))
    losses = [RunFolder(tmp_path / name).read_log()[0]["loss"] for name in ("velocity", "noise")]
    assert losses[0] != losses[1]
    settings.write_text(json.dumps({**config, "prediction_type": "sample"}))
    with pytest.raises(vf.VectorFitError, match="predicts 'sample'"):
        main(arguments(tmp_path / "neither", "--base_model", copy))


# The layout of the original Stable Diffusion's checkpoints, as far as the tiny model goes: part there -> part here.
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_RESNETS = {
    "input_blocks.1.0": "down_blocks.0.resnets.0",
    "input_blocks.3.0": "down_blocks.1.resnets.0",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.2": "mid_block.resnets.1",
    **{f"output_blocks.{2 * up + i}.0": f"up_blocks.{up}.resnets.{i}" for up in range(2) for i in range(2)},
}
UNET_PARTS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_blocks.2.0.op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks.3.1": "down_blocks.1.attentions.0",
    "middle_block.1": "mid_block.attentions.0",
    "output_blocks.0.1": "up_blocks.0.attentions.0",
    "output_blocks.1.1": "up_blocks.0.attentions.1",
    "output_blocks.1.2.conv": "up_blocks.0.upsamplers.0.conv",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    **{f"{there}.{t}": f"{here}.{h}" for there, here in UNET_RESNETS.items() for t, h in RESNET.items()},
}
VAE_RESNETS = {
    **{f"encoder.down.{i}.block.{j}": f"encoder.down_blocks.{i}.resnets.{j}" for i in range(2) for j in range(2)},
    **{f"decoder.up.{1 - i}.block.{j}": f"decoder.up_blocks.{i}.resnets.{j}" for i in range(2) for j in range(3)},
    **{f"{c}.mid.block_{i + 1}": f"{c}.mid_block.resnets.{i}" for c in ("encoder", "decoder") for i in range(2)},
}
VAE_PARTS = {
    "encoder.down.0.downsample.conv": "encoder.down_blocks.0.downsamplers.0.conv",
    "decoder.up.1.upsample.conv": "decoder.up_blocks.0.upsamplers.0.conv",
    **{f"{there}.nin_shortcut": f"{here}.conv_shortcut" for there, here in VAE_RESNETS.items()},
    **VAE_RESNETS,
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
for coder in ("encoder", "decoder"):
    VAE_PARTS |= {f"{coder}.mid.attn_1.{t}": f"{coder}.mid_block.attentions.0.{h}" for t, h in VAE_ATTENTION.items()}
    VAE_PARTS |= {f"{coder}.norm_out": f"{coder}.conv_norm_out"}


def renamed(weights: dict[str, torch.Tensor], parts: dict[str, str], prefix: str) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in weights.items():
        there, here = next(((t, h) for t, h in parts.items() if name.startswith(h + ".")), ("", ""))
        new = there + name.removeprefix(here)
        convolution = ".attn_1." in new and value.ndim == 2  # the original's VAE attention is made of 1 x 1 ones
        found[prefix + new] = (value[..., None, None] if convolution else value).contiguous()
    return found


def original_checkpoint(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    text = {with_level(name): value for name, value in pipe.text_encoder.state_dict().items()}
    return {
        **renamed(pipe.unet.state_dict(), UNET_PARTS, "model.diffusion_model."),
        **renamed(pipe.vae.state_dict(), VAE_PARTS, "first_stage_model."),
        **{f"cond_stage_model.transformer.{name}": value.contiguous() for name, value in text.items()},
    }


def test_a_single_file_with_its_configuration_beside_it(tiny_base, copy, arguments, tmp_path):
    pipe = load(resolve(str(tiny_base)))
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    save_file(original_checkpoint(pipe), copy / "my-model.safetensors", metadata={"format": "pt"})
    base = resolve(str(copy / "my-model.safetensors"))
    assert base.name == "my-model"
    assert same(load(base), pipe)
    main(arguments(tmp_path / "run", "--base_model", copy / "my-model.safetensors"))
    load_pipeline(resolve(str(tiny_base)), [(tmp_path / "run", 1.0)], device="cpu")  # the same weights, so it fits
    (copy / "broken.safetensors").write_bytes(b"not one")
    with pytest.raises(vf.VectorFitError, match=r"broken\.safetensors' cannot be loaded"):
        load(resolve(str(copy / "broken.safetensors")))


# As Stable Diffusion 1.5's LoRA files have them: diffusers' own, and those of kohya's scripts.
PUBLISHED = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
    ),
    "text_encoder.encoder.layers.11.self_attn.q_proj": (
        "text_encoder.text_model.encoder.layers.11.self_attn.q_proj",
        "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
    ),
}


@pytest.mark.parametrize("path", PUBLISHED)
def test_layers_have_the_names_that_other_tools_give_them(path):
    family = StableDiffusion()
    assert tuple(family.namings[tool].layer(path) for tool in ("diffusers", "kohya")) == PUBLISHED[path]


@torch.no_grad()
def test_a_frozen_text_encoder_encodes_a_prompt_once(tiny_base):
    pipe = load(resolve(str(tiny_base)))
    denoiser = StableDiffusion().denoiser(pipe)
    encoded, plain = [], denoiser.encode
    denoiser.encode = lambda ids: encoded.append(len(ids)) or plain(ids)
    ids = StableDiffusion().tokenize(pipe, ["a dog", "a cat"])
    index, steps, noisy = torch.tensor([1, 0]), torch.tensor([3, 5]), torch.randn(2, 4, 8, 8)
    anew = denoiser(noisy, steps, ids, index)
    denoiser.keep(ids)
    assert encoded == [2, 2]
    assert all(torch.equal(denoiser(noisy, steps, None, index), anew) for _ in range(2))
    assert not torch.equal(denoiser(noisy, steps, None, index.flip(0)), anew)
    assert encoded == [2, 2]
