"""What VectorFit is compared with: every method trains, previews, resumes, saves and loads through the same script."""

import json

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vectorfit import VectorFitError
from vectorfit.config import VARIANTS
from vf_dreambooth.base_models import resolve
from vf_dreambooth.pipeline import (
    GenerationSettings,
    adapted_models,
    generate_images,
    load_pipeline,
    set_subjects,
    suits,
)
from vf_training import methods
from vf_training.runs import RunFolder

SAMPLING = GenerationSettings(2, 2.0, 16)


def pixels(pipe):
    return [list(image.get_flattened_data()) for image in generate_images(pipe, ["a photo of sks dog"], [3], SAMPLING)]


def train(arguments, folder, method, *flags):
    # Of the freezing's flags those without it must be left out.
    line = arguments(folder, "--method", method, *flags)
    if method not in ("vectorfit", "random_freezing"):
        pairs = zip(line[::2], line[1::2], strict=True)
        line = [part for pair in pairs if not pair[0].startswith("--avf_") for part in pair]
    main(line)
    return RunFolder(folder)


@pytest.mark.parametrize("method", methods.names(methods.DREAMBOOTH))
def test_every_method_trains_and_loads(arguments, tiny_base, tmp_path, method):
    run = train(arguments, tmp_path / "run", method, "--num_validation_images", 1)
    tensors = load_file(run.vectors)
    assert any(value.abs().max() > 0 for value in tensors.values())
    assert json.loads(vf.read_metadata(run.vectors)["vectorfit.training"])["method"] == method
    frozen = [entry["frozen"] for entry in run.read_log()]
    assert any(frozen) == (methods.find(method).freezing is not None)
    kinds = {name.rpartition(".")[2] for name in tensors}
    if methods.find(method).trains_vectors:
        assert kinds == {kind for kind, roles in VARIANTS[methods.find(method).config.variant].items() if roles}
    else:
        assert kinds == {"lora": {"lora_A", "lora_B"}, "full": {"weight", "bias"}}[method]
    pipe = load_pipeline(resolve(str(tiny_base)))
    base = pixels(pipe)
    set_subjects(pipe, [(run.path, 1.0)])
    assert pixels(pipe) != base
    set_subjects(pipe, [(run.path, 0.0)])
    assert pixels(pipe) == base
    set_subjects(pipe, [])
    assert pixels(pipe) == base


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_baselines_file_is_what_was_trained(arguments, tiny_base, tmp_path, method):
    """The preview drawn by the trained model itself is the picture that the loaded file makes."""
    run = train(arguments, tmp_path / "run", method)
    pipe = load_pipeline(resolve(str(tiny_base)), [(run.path, 1.0)])
    loaded = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    trained = load_pipeline(resolve(str(tiny_base)))
    models = adapted_models(trained)
    trained_anew = methods.put_in(method, models)
    tensors = load_file(run.vectors)
    for name, parameter in trained_anew.parameters.items():
        if method == "lora":
            path, factor = name.removesuffix(".default.weight").rsplit(".", 1)
            parameter.data.copy_(tensors[f"{path}.{factor}"])
        else:
            parameter.data += tensors[name].float()
    x, words = torch.randn(1, 4, 8, 8), torch.randn(1, 5, trained.unet.config.cross_attention_dim)
    with torch.no_grad():
        expected = trained.unet.eval()(x, 3, words).sample
        torch.testing.assert_close(pipe.unet.eval()(x, 3, words).sample, expected, atol=1e-4, rtol=1e-3)
    methods.restore(adapted_models(pipe))
    base = load_pipeline(resolve(str(tiny_base))).unet.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in pipe.unet.state_dict().items())
    assert any(not torch.equal(value, base[name]) for name, value in loaded.items())


@pytest.mark.parametrize("method", ["lora", "full", "svft"])
def test_other_methods_resume_to_the_identical_file_too(arguments, tmp_path, method):
    whole = train(arguments, tmp_path / "whole", method)
    again = train(arguments, tmp_path / "again", method)
    assert again.vectors.read_bytes() == whole.vectors.read_bytes()
    again.vectors.unlink()
    again.keep_checkpoints([2])
    main(["--resume_from_checkpoint", str(again.path)])
    assert again.vectors.read_bytes() == whole.vectors.read_bytes()


def test_a_baselines_file_wants_float32(arguments, tiny_base, tmp_path):
    run = train(arguments, tmp_path / "run", "lora")
    base = resolve(str(tiny_base))
    pipe = load_pipeline(base, device="cpu", dtype=torch.bfloat16)
    with pytest.raises(VectorFitError, match="needs the base in float32, got torch"):
        set_subjects(pipe, [(run.path, 1.0)])
    assert not suits(pipe, [(run.path, 1.0)])
    assert suits(pipe, [])
    assert suits(load_pipeline(base, [(run.path, 1.0)], device="cpu"), [(run.path, 1.0)])


def test_baselines_are_held_to_their_base_and_do_not_mix(arguments, tiny_base, tmp_path, subject):
    run = train(arguments, tmp_path / "run", "lora")
    pipe = load_pipeline(resolve(str(tiny_base)))
    with pytest.raises(VectorFitError, match="does not mix"):
        set_subjects(pipe, [(run.path, 1.0), (subject, 1.0)])
    with pytest.raises(VectorFitError, match=r"a file of lora.*vf_training\.methods"):
        vf.load_vectors(adapted_models(pipe), run.vectors)
    next(pipe.unet.parameters()).data.add_(0)
    pipe.unet.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight").data.mul_(2)
    with pytest.raises(VectorFitError, match="made for other weights"):
        set_subjects(pipe, [(run.path, 1.0)])
    data = bytearray(run.vectors.read_bytes())
    data[-1] ^= 1
    run.vectors.write_bytes(bytes(data))
    with pytest.raises(VectorFitError, match="not those it was written with"):
        set_subjects(load_pipeline(resolve(str(tiny_base))), [(run.path, 1.0)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "dora"), "expected one of vectorfit"),
        (("--method", "lora", "--avf_every", 3), "--method lora freezes nothing"),
        (("--method", "full", "--prior", "drift"), "has none"),
    ],
)
def test_methods_that_cannot_be(photos, tiny_base, capsys, flags, message):
    with pytest.raises(VectorFitError, match=message):
        main([str(part) for part in ("--instance_dir", photos, "--base_model", tiny_base, *flags)])


def test_random_freezing_takes_the_runs_seed(arguments, tmp_path):
    runs = [train(arguments, tmp_path / str(seed), "random_freezing", "--seed", seed) for seed in (0, 1)]
    frozen = [[entry["frozen"] for entry in run.read_log()] for run in runs]
    assert all(any(steps) for steps in frozen)
    assert frozen[0] != frozen[1]


def test_the_log_has_the_rate_of_every_group(arguments, tmp_path):
    flags = ("--text_encoder_lr", 5e-3, "--lr_scheduler", "linear")
    entries = train(arguments, tmp_path / "run", "vectorfit", *flags).read_log()
    assert all(entry["lr_text_encoder"] == pytest.approx(entry["lr"] / 2) for entry in entries)
    assert len({entry["lr"] for entry in entries}) == len(entries)
    (one_group, *_) = train(arguments, tmp_path / "one", "vectorfit").read_log()
    assert [name for name in one_group if name.startswith("lr")] == ["lr"]
