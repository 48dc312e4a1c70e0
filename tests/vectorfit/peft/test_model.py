"""How PEFT puts VectorFit into models, and what it refuses; requirements by number are in docs/method.md."""

import copy
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from packaging.version import Version
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import vectorfit as vf
import vectorfit.peft as vp
from tests.vectorfit.peft.models import bert, denoised, disturb, logits, plain_state, tuned, unet, words

OLD = pytest.mark.skipif(
    Version(peft.__version__) < Version("0.20"), reason="older PEFT writes the vectors of all adapters into every file"
)


def test_the_modules_are_the_cores_and_only_vectors_and_the_fresh_head_train():
    plan = vf.plan(bert())
    planned = {layer.path for layer in plan.layers}
    wrapped = peft.get_peft_model(bert(), vp.VectorFitConfig(task_type="SEQ_CLS"))
    assert set(wrapped.targeted_module_names) == planned
    trainable = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert all("vectorfit_" in name or ".classifier." in name for name in trainable)
    assert sum("vectorfit_" in name for name in trainable) == len(vf.vector_parameters(wrapped)) == plan.num_vectors
    assert plan.num_vectors == 2 * len(planned) - len(plan.idle)
    assert any("classifier" in name for name in trainable)


def test_it_trains_as_the_core_does():
    """One step of the same optimizer on the same data: the same vectors."""
    ours, theirs = bert(), tuned(bert())
    vf.inject(ours)
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        torch.manual_seed(0)
        model(words(), labels=torch.tensor([0, 1, 0])).loss.backward()
        optimizer.step()
    mine = vf.vector_parameters(ours)
    for name, vector in vf.vector_parameters(theirs).items():
        key = name.removeprefix("base_model.model.").removesuffix(".default")
        assert torch.equal(vector, mine[key])
        assert vector.abs().sum() > 0


@pytest.mark.parametrize("way", ["merge_adapter", "merge_and_unload"])
def test_safe_merging_refuses_what_is_not_finite_and_changes_nothing(way):
    wrapped = disturb(tuned())
    list(vf.vector_parameters(wrapped).values())[-1].data[0] = float("nan")  # the last layer: others come before it
    before = plain_state(wrapped)
    with pytest.raises(ValueError, match="NaN"):
        getattr(wrapped, way)(safe_merge=True)
    after = wrapped.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items() if "vectorfit_" not in name)
    assert not any(module.merged for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer))


def test_a_refused_adapter_leaves_the_model_as_it_was(tmp_path):
    disturb(tuned()).save_pretrained(tmp_path)
    other = bert(seed=3)
    kinds = [type(module) for module in other.modules()]
    required = [parameter.requires_grad for parameter in other.parameters()]
    with pytest.raises(vf.VectorFitError, match="of another model"):
        peft.PeftModel.from_pretrained(other, tmp_path)
    assert [type(module) for module in other.modules()] == kinds
    assert [parameter.requires_grad for parameter in other.parameters()] == required
    wrapped = tuned(other, target_modules=["query"])
    assert len(vf.vector_parameters(wrapped)) == 4
    names = set(wrapped.state_dict())
    with pytest.raises(vf.VectorFitError, match="of another model"):
        wrapped.load_adapter(tmp_path, "second")
    assert set(wrapped.state_dict()) == names


def test_what_is_excluded_is_not_looked_at():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    masked = BertForMaskedLM(BertConfig(vocab_size=40, **sizes))  # its decoder is tied with the embedding
    assert not any("decoder" in name for name in vf.vector_parameters(tuned(copy.deepcopy(masked))))
    for excluded in (["query"], r".*\.query"):
        names = vf.vector_parameters(tuned(copy.deepcopy(masked), exclude_modules=excluded))
        assert any("key" in name for name in names)
        assert not any("query" in name for name in names)


def test_named_targets_and_norms_go_together_and_nothing_to_train_is_said():
    names = vf.vector_parameters(tuned(target_modules=["query"], norm_biases=True))
    assert sum("LayerNorm.bias" in name for name in names) == 4
    assert sum("query" in name for name in names) == 4
    without_biases = vf.vector_parameters(tuned(target_modules=["query", "LayerNorm"], variant="sigma"))
    assert not any("LayerNorm" in name for name in without_biases)
    with pytest.raises(vf.VectorFitError, match="nothing to train"):
        tuned(target_modules=["intermediate.dense"], variant="sigma_a")
    bare = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False))
    with pytest.raises(vf.VectorFitError, match="without weight"):
        tuned(bare, target_modules=["1"])
    with pytest.raises(vf.VectorFitError, match=r"matches no module; layers here.*query"):
        tuned(target_modules=["q_proj"])


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_an_adapter_comes_back_under_another_name_and_seed(tmp_path, low_cpu_mem_usage):
    wrapped = disturb(tuned())
    wrapped.save_pretrained(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < 4 * sum(v.numel() for v in vf.vector_parameters(wrapped).values()) + 10_000
    torch.manual_seed(99)
    again = peft.PeftModel.from_pretrained(bert(), tmp_path, adapter_name="dog", low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(again.eval()), logits(wrapped))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    trainable = peft.PeftModel.from_pretrained(bert(), tmp_path, is_trainable=True)
    assert all(vector.requires_grad for vector in vf.vector_parameters(trainable).values())


def test_an_adapter_loads_in_a_fresh_process(tmp_path):
    wrapped = disturb(tuned())
    wrapped.save_pretrained(tmp_path / "adapter")
    bert().save_pretrained(tmp_path / "base")
    torch.save(logits(wrapped), tmp_path / "expected.pt")
    code = f"""
import peft, torch, vectorfit.peft
from transformers import BertForSequenceClassification
torch.manual_seed(5)
base = BertForSequenceClassification.from_pretrained({str(tmp_path / "base")!r}).eval()
model = peft.PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).eval()
words = torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(0))
assert torch.equal(model(words).logits, torch.load({str(tmp_path / "expected.pt")!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@OLD
@pytest.mark.parametrize("adapter", ["second", "default2"])
def test_names_that_are_parts_of_each_other_stay_apart(tmp_path, adapter):
    torch.manual_seed(0)
    net = nn.ModuleDict({"fc": nn.Linear(6, 6), "fc1": nn.Linear(6, 6), "my_fc": nn.Linear(6, 6)})
    wrapped = peft.get_peft_model(net, vp.VectorFitConfig(target_modules=["fc"]))
    assert wrapped.targeted_module_names == ["fc"]
    wrapped.add_adapter(adapter, vp.VectorFitConfig(target_modules=["fc1"]))
    wrapped.set_adapter(adapter)
    disturb(wrapped)
    wrapped.save_pretrained(tmp_path)
    tensors = vp.files.load_file(tmp_path / adapter / "adapter_model.safetensors")
    assert sorted(tensors) == ["base_model.model.fc1.vectorfit_bias", "base_model.model.fc1.vectorfit_sigma"]


def test_avf_survives_switching_and_disabling_and_frozen_vectors_stand_still():
    wrapped = tuned().train()
    wrapped.add_adapter("other", vp.VectorFitConfig())
    avf = vf.AdaptiveVectorFreezing(wrapped, first_step=2, every=2, num_freezes=3, top_k=4)
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
    for step in range(1, 9):
        wrapped(words(step), labels=torch.tensor([0, 1, 0])).loss.backward()
        frozen = avf.step(step)
        before = {name: vector.clone() for name, vector in vf.vector_parameters(wrapped).items()}
        optimizer.step()
        optimizer.zero_grad()
        for name, vector in vf.vector_parameters(wrapped).items():
            assert torch.equal(vector, before[name]) == (name in frozen)
        wrapped.set_adapter("other")
        wrapped.set_adapter("default")
        with wrapped.disable_adapter():
            pass
    assert len(avf.frozen) == 4
    wrapped.set_adapter("other")
    with pytest.raises(vf.VectorFitError, match=r"other.*active"):
        avf.step(9)


def test_a_wrong_base_is_refused_and_a_rounded_one_is_warned_of(tmp_path):
    disturb(tuned()).save_pretrained(tmp_path)
    with pytest.raises(vf.VectorFitError, match="of another model"):
        peft.PeftModel.from_pretrained(bert(seed=3), tmp_path)
    with pytest.warns(UserWarning, match=r"bfloat16.*rounded or changed"):
        peft.PeftModel.from_pretrained(bert().bfloat16(), tmp_path)


def test_a_second_adapter_is_held_to_its_base_too(tmp_path):
    disturb(tuned()).save_pretrained(tmp_path)
    wrapped = tuned()
    wrapped.load_adapter(tmp_path, "second")
    wrapped.set_adapter("second")
    assert torch.equal(logits(wrapped), logits(disturb(tuned())))
    with pytest.raises(vf.VectorFitError, match="of another model"):
        tuned(bert(seed=3)).load_adapter(tmp_path, "second")


def test_what_cannot_be_adapted_is_refused_with_the_reason_before_anything_changes():
    tied = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2))
    kinds = [type(module) for module in tied.modules()]
    with pytest.raises(vf.VectorFitError, match=r"lm_head: its weight is tied with transformer.wte"):
        peft.get_peft_model(tied, vp.VectorFitConfig(target_modules=["c_attn", "lm_head"]))
    assert [type(module) for module in tied.modules()] == kinds
    with pytest.raises(vf.VectorFitError, match="meta device"):
        peft.get_peft_model(bert().to("meta"), vp.VectorFitConfig(target_modules=["query"]))
    with pytest.raises(vf.VectorFitError, match="variant"):
        vp.VectorFitConfig(variant="sigmas")
    with pytest.raises(vf.VectorFitError, match="Embedding"):
        tuned(target_modules=["word_embeddings"])
    partitioned = bert()
    partitioned.bert.encoder.layer[0].attention.self.query.weight.ds_id = 0
    with pytest.raises(vf.VectorFitError, match="ZeRO-3"):
        tuned(partitioned)
    wrapped = tuned()
    with pytest.raises(vf.VectorFitError, match="pattern"):
        wrapped.add_adapter("other", vp.VectorFitConfig(pattern="banded"))
    with pytest.raises(vf.VectorFitError, match="to_subject_file"):
        vf.save_vectors(wrapped, "never.safetensors", base_model="test")


def test_diffusers_models_take_it_as_an_adapter():
    model = unet()
    expected = denoised(model)
    model.add_adapter(vp.VectorFitConfig(), adapter_name="dog")
    assert torch.equal(denoised(model), expected)
    assert len(vf.vector_parameters(model)) == vf.plan(unet()).num_vectors
    disturb(model)
    changed = denoised(model)
    state = peft.get_peft_model_state_dict(model, adapter_name="dog")
    model.disable_adapters()
    assert torch.equal(denoised(model), expected)
    model.enable_adapters()
    assert torch.equal(denoised(model), changed)
    model.set_adapters("dog", 0.0)
    other = unet()
    other.add_adapter(vp.VectorFitConfig(), adapter_name="cat")
    peft.set_peft_model_state_dict(other, state, adapter_name="cat")
    assert torch.equal(denoised(other), changed)
    peft_injected = peft.inject_adapter_in_model(vp.VectorFitConfig(), unet())
    assert torch.equal(denoised(peft_injected), expected)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.18.0", "0.19.1"])
def test_all_of_this_holds_on_older_peft(tmp_path, version):
    """0.18.0 is the oldest that the `peft` extra allows."""
    wanted = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), f"peft=={version}"]
    subprocess.run(wanted, check=True)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import peft, pytest
assert peft.__version__ == {version!r}
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", {str(Path(__file__).parent)!r}]))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
