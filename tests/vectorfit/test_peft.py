"""VectorFit as a method of PEFT; numbers are those of docs/method.md's tests."""

import copy
import importlib
import pickle
import subprocess
import sys

import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from packaging.version import Version
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import vectorfit as vf
import vectorfit.peft as vp
from vectorfit.container import read_metadata

OLD = pytest.mark.skipif(
    Version(peft.__version__) < Version("0.20"), reason="older PEFT writes the vectors of all adapters into every file"
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fresh_adapter_is_the_base_bit_for_bit(dtype):
    model = bert().to(dtype)
    expected = logits(model)
    wrapped = tuned(model)
    assert torch.equal(logits(wrapped), expected)
    assert all(vector.dtype == torch.float32 for vector in vf.vector_parameters(wrapped).values())
    layers = [module for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)]
    assert all(t.dtype == torch.float32 for layer in layers for t in (layer.U, layer.sigma, layer.Vh))


def test_the_modules_are_the_cores_and_only_vectors_and_the_fresh_head_train():
    planned = {layer.path for layer in vf.plan(bert()).layers}
    wrapped = peft.get_peft_model(bert(), vp.VectorFitConfig(task_type="SEQ_CLS"))
    assert set(wrapped.targeted_module_names) == planned
    trainable = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert all("vectorfit_" in name or ".classifier." in name for name in trainable)
    assert sum("vectorfit_" in name for name in trainable) == len(vf.vector_parameters(wrapped)) == 2 * len(planned)
    assert any("classifier" in name for name in trainable)


@pytest.mark.parametrize(("variant", "sigma", "bias"), [("sigma_a", 8, 0), ("sigma_a+b", 8, 12), ("sigma", 13, 0)])
def test_variants_train_what_they_are_named_for(variant, sigma, bias):
    names = vf.vector_parameters(tuned(variant=variant))
    assert sum(".sigma." in name for name in names) == sigma
    assert sum(".bias." in name for name in names) == bias


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


def test_disabled_is_the_base_nested_and_through_exceptions():
    expected = logits(bert())
    wrapped = disturb(tuned())
    changed = logits(wrapped)
    assert not torch.allclose(changed, expected)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), expected)
    with pytest.raises(KeyError), wrapped.disable_adapter():
        raise KeyError
    assert torch.equal(logits(wrapped), changed)
    wrapped.merge_adapter()
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), expected)


def test_merging_equals_unmerged_comes_back_bit_for_bit_and_leaves_a_plain_model(tmp_path):
    before = plain_state(bert())
    wrapped = disturb(tuned())
    expected = logits(wrapped)
    for _ in range(3):
        wrapped.merge_adapter()
        torch.testing.assert_close(logits(wrapped), expected, atol=1e-6, rtol=1e-5)
        wrapped.unmerge_adapter()
        assert torch.equal(logits(wrapped), expected)
    for name, value in wrapped.get_base_model().state_dict().items():
        if "vectorfit_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")])
    merged = wrapped.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged), expected, atol=1e-6, rtol=1e-5)
    assert set(merged.state_dict()) == set(before)
    assert not any(isinstance(module, vp.VectorFitTunerLayer) for module in merged.modules())
    merged.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(merged))


def test_two_adapters_merge_together_or_one_after_the_other():
    wrapped = disturb(tuned(), 1)
    wrapped.add_adapter("other", vp.VectorFitConfig())
    wrapped.set_adapter("other")
    disturb(wrapped, 2)
    wrapped.base_model.set_adapter(["default", "other"])
    both = logits(wrapped)
    for order in (["default", "other"], ["other", "default"]):
        for name in order:
            wrapped.merge_adapter([name])
        torch.testing.assert_close(logits(wrapped), both, atol=1e-6, rtol=1e-5)
        wrapped.unmerge_adapter()
    wrapped.merge_adapter(["default", "other"])
    torch.testing.assert_close(logits(wrapped), both, atol=1e-6, rtol=1e-5)


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


def test_one_configuration_serves_for_several_models():
    config = vp.VectorFitConfig()
    for model in (bert(0), bert(1), GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2)).eval()):
        expected = logits(model)
        assert torch.equal(logits(peft.get_peft_model(model, config).eval()), expected)
    assert (config.target_modules, config.base_sha256, config.base_sketch) == (None, None, None)
    for _ in range(2):
        unet().add_adapter(config, adapter_name="a")


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


def test_a_merged_model_follows_strength_and_scale():
    wrapped, base = disturb(tuned()), logits(bert())
    whole = logits(wrapped)
    wrapped.merge_adapter()
    vf.set_strength(wrapped, 0.0)
    torch.testing.assert_close(logits(wrapped), base, atol=0, rtol=0)
    vf.set_strength(wrapped, 1.0)
    torch.testing.assert_close(logits(wrapped), whole, atol=1e-6, rtol=1e-5)
    for module in wrapped.modules():
        if isinstance(module, vp.VectorFitTunerLayer):
            module.set_scale("default", 0.0)
    torch.testing.assert_close(logits(wrapped), base, atol=0, rtol=0)


@pytest.mark.skipif(not hasattr(peft, "convert_to_lora"), reason="this PEFT has no conversion")
def test_peft_converts_it_to_lora_where_there_is_a_sigma():
    config, _ = peft.convert_to_lora(disturb(tuned()), rank=16)
    assert config.peft_type == "LORA"
    with pytest.raises(TypeError, match="do not support LoRA"):
        peft.convert_to_lora(disturb(tuned(variant="sigma_a+b")), rank=16)


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


def test_requires_grad_after_everything():
    wrapped = tuned()

    def trainable():
        return {name.rpartition(".")[2] for name, p in wrapped.named_parameters() if p.requires_grad}

    assert trainable() == {"default"}
    wrapped.add_adapter("other", vp.VectorFitConfig())
    assert trainable() == {"default"}
    wrapped.set_adapter("other")
    assert trainable() == {"other"}
    with wrapped.disable_adapter():
        assert trainable() == set()
    assert trainable() == {"other"}
    wrapped.delete_adapter("other")
    assert trainable() == {"default"}


def test_adapters_are_deleted_active_inactive_unknown_and_merged():
    expected = logits(bert())
    wrapped = disturb(tuned())
    first = logits(wrapped)
    wrapped.add_adapter("other", vp.VectorFitConfig())
    wrapped.delete_adapter("other")
    assert torch.equal(logits(wrapped), first)
    if not OLD.args[0]:  # older PEFT deletes a merged adapter without a word
        wrapped.merge_adapter()
        with pytest.raises(ValueError, match="merge"):
            wrapped.delete_adapter("default")
        wrapped.unmerge_adapter()
        assert torch.equal(logits(wrapped), first)
    with pytest.raises(ValueError, match="unknown"):
        wrapped.delete_adapter("unknown")
    wrapped.add_adapter("other", vp.VectorFitConfig())
    wrapped.delete_adapter("default")
    wrapped.set_adapter("other")
    assert torch.equal(logits(wrapped), expected)
    assert not any("default" in name for name in wrapped.state_dict())
    wrapped.add_adapter("third", vp.VectorFitConfig())
    wrapped.delete_adapter("other")
    wrapped.delete_adapter("third")
    wrapped.add_adapter("wider", vp.VectorFitConfig(pattern="banded"))  # nothing is left that it could differ from


@pytest.mark.parametrize("move", ["half", "bfloat16", "double"])
def test_vectors_and_factors_stay_float32_wherever_the_model_goes(move):
    wrapped = disturb(tuned())
    before = {name: vector.clone() for name, vector in vf.vector_parameters(wrapped).items()}
    wrapped.add_adapter("other", vp.VectorFitConfig())
    getattr(wrapped, move)()
    for name, vector in vf.vector_parameters(wrapped).items():
        assert torch.equal(vector, before[name])
    layers = [module for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)]
    for layer in layers:
        assert {t.dtype for t in (layer.U, layer.sigma, layer.Vh, *layer._all_vectors())} == {torch.float32}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant):
    found = []
    for checkpointing in (False, True):
        wrapped = disturb(tuned(bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))).train()
        if checkpointing:
            wrapped.enable_input_require_grads()
            wrapped.gradient_checkpointing_enable({"use_reentrant": reentrant})
        wrapped(words(), labels=torch.tensor([0, 1, 0])).loss.backward()
        found.append({name: vector.grad for name, vector in vf.vector_parameters(wrapped).items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_copies_and_pickles_keep_the_result():
    wrapped = disturb(tuned())
    for twin in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(logits(twin), logits(wrapped))
        disturb(twin, 7)
        assert not torch.equal(logits(twin), logits(wrapped))


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


def test_transformers_conv1d_convolutions_and_norms_are_adapted():
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2)).eval()
    expected = logits(gpt)
    wrapped = tuned(gpt, norm_biases=True)
    assert torch.equal(logits(wrapped), expected)
    assert {type(module).__name__ for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)} == {
        "Conv1D",
        "Norm",
    }
    disturb(wrapped)
    assert not torch.allclose(logits(wrapped), expected)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(wrapped), atol=1e-5, rtol=1e-4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    x = torch.randn(2, 3, 4, 4)
    before = net(x)
    wrapped = tuned(net, target_modules=["0"])
    assert torch.equal(wrapped(x), before)
    disturb(wrapped)
    after = wrapped(x)
    torch.testing.assert_close(wrapped.merge_and_unload()(x), after)


def test_scales_are_strengths():
    wrapped, base = disturb(tuned()), logits(bert())
    layers = [module for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)]
    for layer in layers:
        layer.set_scale("default", 0.0)
    torch.testing.assert_close(logits(wrapped), base, atol=0, rtol=0)
    for layer in layers:
        layer.set_scale("default", 1.0)
        layer.scale_layer(0.5)
    half = logits(wrapped)
    for layer in layers:
        layer.unscale_layer()
    vf.set_strength(wrapped, 0.5)
    torch.testing.assert_close(logits(wrapped), half)


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


def test_registering_twice_is_registering_once_and_a_member_of_pefts_own_is_left():
    before = list(peft.PeftType)
    for module in (vp.config, vp):
        importlib.reload(module)
    assert list(peft.PeftType) == before
    member = peft.PeftType("VECTORFIT")
    assert pickle.loads(pickle.dumps(member)) is member is copy.deepcopy(member) is peft.PeftType.VECTORFIT
    assert vp.config.peft_type_of_vectorfit() is member


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
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", {__file__!r}]))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
