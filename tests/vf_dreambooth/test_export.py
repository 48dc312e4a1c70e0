"""A subject in other tools' forms, loaded by diffusers itself."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import vectorfit as vf
from vf_dreambooth import export
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import load_pipeline


def outputs(pipe: StableDiffusionPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    noisy, ids = torch.randn(1, 4, 8, 8), torch.arange(12)[None]
    with torch.no_grad():
        words = pipe.text_encoder(ids).last_hidden_state
        return words, pipe.unet(noisy, torch.tensor([500]), words).sample


def of_base(tiny_base, *subjects):
    return outputs(load_pipeline(resolve(str(tiny_base)), subjects, device="cpu"))


def run(subject, tiny_base, *flags):
    export.main([str(subject), "--base_model", str(tiny_base), *map(str, flags)])


def test_a_full_rank_lora_with_biases_is_the_subject_in_diffusers(subject, tiny_base, tmp_path, capsys):
    pytest.importorskip("peft")
    run(subject, tiny_base, "--to", "lora", "--rank", 999, "--biases", "--out", tmp_path / "lora.safetensors")
    assert "100.0% of ||dW||, 100% of the biases" in capsys.readouterr().out
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    for got, wanted, base in zip(outputs(pipe), of_base(tiny_base, (subject, 1.0)), of_base(tiny_base), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(got, base, atol=1e-2)


def test_kohyas_names_load_into_the_same_lora(subject, tiny_base, tmp_path):
    pytest.importorskip("peft")
    run(subject, tiny_base, "--to", "lora", "--rank", 4, "--out", tmp_path / "d.safetensors")
    run(subject, tiny_base, "--to", "lora", "--rank", 4, "--naming", "kohya", "--out", tmp_path / "k.safetensors")
    names = load_file(tmp_path / "k.safetensors")
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in names
    pipes = []
    for name in ("d", "k"):
        pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
        pipe.load_lora_weights(tmp_path, weight_name=f"{name}.safetensors")
        pipes.append(outputs(pipe))
    for one, other in zip(*pipes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_merged_pipeline_is_the_subject_without_us(subject, tiny_base, tmp_path):
    run(subject, tiny_base, "--to", "pipeline", "--strength", 0.5, "--out", tmp_path / "merged")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "merged")
    for got, wanted in zip(outputs(pipe), of_base(tiny_base, (subject, 0.5)), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_the_difference_adds_to_the_base(subject, tiny_base):
    run(subject, tiny_base, "--to", "diff")
    tensors = load_file(subject.parent / "diff.safetensors")
    pipe = load(resolve(str(tiny_base)))
    for path, module in pipe.unet.named_modules():
        if type(module) is torch.nn.Linear:
            name = f"lora_unet_{path.replace('.', '_')}"
            module.weight.data += tensors[f"{name}.diff"]
            if module.bias is not None:
                module.bias.data += tensors[f"{name}.diff_b"]
    assert len(tensors) > 20
    words, image = of_base(tiny_base, (subject, 1.0))
    with torch.no_grad():
        torch.manual_seed(1)
        got = pipe.unet(torch.randn(1, 4, 8, 8), torch.tensor([500]), words).sample
    torch.testing.assert_close(got, image, atol=1e-5, rtol=1e-4)
    with pytest.raises(vf.VectorFitError, match="exists"):
        run(subject, tiny_base, "--to", "diff")


def test_a_coded_subject_loads_as_others_do(subject, tiny_base, tmp_path, capsys):
    run(subject, tiny_base, "--to", "coded", "--strength", 0.5, "--out", tmp_path / "coded.safetensors")
    assert "bits a number, error of its change 0." in capsys.readouterr().out
    assert (tmp_path / "coded.safetensors").stat().st_size < subject.stat().st_size
    coded = of_base(tiny_base, (tmp_path / "coded.safetensors", 1.0))
    wanted, base = of_base(tiny_base, (subject, 0.5)), of_base(tiny_base)
    for got, exact, plain in zip(coded, wanted, base, strict=True):
        assert (got - exact).norm() < 0.05 * (exact - plain).norm()
    with pytest.raises(vf.VectorFitError, match=r"vectors take .* bytes at least"):
        run(subject, tiny_base, "--to", "coded", "--kilobytes", 1, "--out", tmp_path / "small.safetensors")
