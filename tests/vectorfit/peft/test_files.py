"""Adapter folders become subject files, and come back."""

import peft
import pytest
import torch

import vectorfit as vf
import vectorfit.peft as vp
from tests.vectorfit.peft.models import bert, denoised, disturb, logits, tuned, unet
from vectorfit.container import read_metadata


@pytest.mark.parametrize("settings", [{}, {"variant": "sigma_a+b"}, {"pattern": "random", "pattern_width": 2}])
def test_adapters_become_subject_files_and_come_back(tmp_path, settings):
    wrapped = disturb(tuned(task_type="SEQ_CLS", **settings))
    with torch.no_grad():
        head = wrapped.base_model.model.classifier.modules_to_save["default"]
        head.weight.normal_(generator=torch.Generator().manual_seed(3))
    expected = logits(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    plain = bert()
    vp.to_subject_file(plain, tmp_path / "adapter", tmp_path / "v.safetensors", base_model="tiny-bert")
    assert torch.equal(logits(plain), logits(bert()))
    assert read_metadata(tmp_path / "v.safetensors")["vectorfit.base_model"] == "tiny-bert"
    ours = bert()
    vf.load_vectors(ours, tmp_path / "v.safetensors")
    torch.testing.assert_close(logits(ours), expected, atol=1e-6, rtol=1e-5)
    vp.to_adapter(plain, tmp_path / "v.safetensors", tmp_path / "again")
    again = peft.PeftModel.from_pretrained(bert(), tmp_path / "again").eval()
    torch.testing.assert_close(logits(again), expected, atol=0, rtol=0)


def test_a_subject_of_two_models_becomes_two_adapters(tmp_path):
    models = {"unet": unet(), "text_encoder": bert().bert}
    vf.inject(models)
    disturb(models)
    vf.save_vectors(models, tmp_path / "dog.safetensors", base_model="tiny")
    fresh = {"unet": unet(), "text_encoder": bert().bert}
    vp.to_adapter(fresh, tmp_path / "dog.safetensors", tmp_path / "dog")
    wrapped = peft.PeftModel.from_pretrained(fresh["unet"], tmp_path / "dog" / "unet")
    assert torch.equal(denoised(wrapped.eval()), denoised(models["unet"].eval()))
    base = {"unet": unet(), "text_encoder": bert().bert}
    vp.to_subject_file(base, tmp_path / "dog", tmp_path / "again.safetensors", base_model="tiny")
    vf.load_vectors(base, tmp_path / "again.safetensors")
    assert torch.equal(denoised(base["unet"]), denoised(models["unet"]))


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(vf.VectorFitError, match="not a PEFT adapter"):
        vp.to_subject_file(bert(), tmp_path, tmp_path / "v.safetensors", base_model="x")
    peft.get_peft_model(bert(), peft.LoraConfig(target_modules=["query"])).save_pretrained(tmp_path)
    with pytest.raises(vf.VectorFitError, match=r"type .*LORA, expected VECTORFIT"):
        vp.to_subject_file(bert(), tmp_path, tmp_path / "v.safetensors", base_model="x")
    disturb(tuned()).save_pretrained(tmp_path)
    vp.to_subject_file(bert(), tmp_path, tmp_path / "w.safetensors", base_model="x")
    injected = bert()
    vf.inject(injected)
    with pytest.raises(vf.VectorFitError, match="expected the plain base"):
        vp.to_adapter(injected, tmp_path / "w.safetensors", tmp_path / "again")
    assert vf.vector_parameters(injected)
    with pytest.raises(vf.VectorFitError, match="of another model"):
        vp.to_subject_file(bert(seed=3), tmp_path, tmp_path / "v.safetensors", base_model="x")
    assert not (tmp_path / "v.safetensors").exists()
