"""The encoders against other libraries' of the same architecture, with random weights: no download is needed."""

import hashlib

import open_clip
import pytest
import timm
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from eval import encoders, protocols
from eval.encoders import BATCH, Encoder, Encoders, load_clip, load_dino
from eval.protocols import CLIP_B32, DINO_S16, PROTOCOLS, EncoderSpec, Preprocess
from vectorfit import VectorFitError


def transplant_vit(source, target):
    """timm's weights into transformers' ViT: the fused projection is cut in three."""
    state = {}
    for name, value in source.state_dict().items():
        name = name.replace("cls_token", "embeddings.cls_token").replace("pos_embed", "embeddings.position_embeddings")
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = "layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        state[name] = value
    named = {}
    for name, value in state.items():
        if not name.startswith("blocks."):
            named[name] = value
            continue
        _, block, rest = name.split(".", 2)
        if rest.startswith("attn.qkv"):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                named[f"{block}.{part}.{rest.rpartition('.')[2]}"] = piece
        else:
            named[f"{block}.{rest}"] = value
    own = target.state_dict()
    pairs = {}
    for key in own:
        if ".layer." not in f".{key}" and not key.startswith(("encoder", "layers")):
            pairs[key] = named[key]
    return named, own, pairs


@torch.no_grad()
def test_the_dino_architecture_is_transformers_vit():
    torch.manual_seed(0)
    ours = encoders.build_timm(DINO_S16.model, pretrained=False).eval()
    theirs = ViTModel(
        ViTConfig(
            hidden_size=384,
            num_attention_heads=6,
            intermediate_size=1536,
            layer_norm_eps=1e-6,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    ).eval()
    named, own, pairs = transplant_vit(ours, theirs)
    kinds = {
        "attention.attention.query": "q",
        "attention.attention.key": "k",
        "attention.attention.value": "v",
        "attention.q_proj": "q",
        "attention.k_proj": "k",
        "attention.v_proj": "v",
        "attention.output.dense": "attn.proj",
        "attention.o_proj": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
    }
    for key in own:
        if key in pairs:
            continue
        block = next(part for part in key.split(".") if part.isdigit())
        inside, _, last = key.split(f".{block}.", 1)[1].rpartition(".")
        pairs[key] = named[f"{block}.{kinds[inside]}.{last}"]
    theirs.load_state_dict(pairs)
    x = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x).last_hidden_state[:, 0], atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def clip():
    """CLIP B/32 of random weights: a second to make, so made once."""
    torch.manual_seed(0)
    return open_clip.create_model(CLIP_B32.model, pretrained=None).eval()


@torch.no_grad()
def test_the_clip_architecture_is_transformers_clip_and_needs_quick_gelu(clip):
    ours = clip
    theirs = CLIPModel(CLIPConfig(projection_dim=512, vision_config={"patch_size": 32})).eval()

    def put(prefix, name, value):
        theirs.get_parameter(f"{prefix}.{name}").data.copy_(value)

    for prefix, tower in (("vision_model", ours.visual), ("text_model", ours)):
        for index, block in enumerate(tower.transformer.resblocks):
            layer = f"{prefix}.encoder.layers.{index}"
            for kind in ("weight", "bias"):
                cut = getattr(block.attn, f"in_proj_{kind}").chunk(3)
                for name, piece in zip(("q_proj", "k_proj", "v_proj"), cut, strict=True):
                    put(layer, f"self_attn.{name}.{kind}", piece)
                put(layer, f"self_attn.out_proj.{kind}", getattr(block.attn.out_proj, kind))
                for name, module in (("layer_norm1", block.ln_1), ("layer_norm2", block.ln_2)):
                    put(layer, f"{name}.{kind}", getattr(module, kind))
                for name, module in (("mlp.fc1", block.mlp.c_fc), ("mlp.fc2", block.mlp.c_proj)):
                    put(layer, f"{name}.{kind}", getattr(module, kind))
    vision, text = ours.visual, ours
    put("vision_model.embeddings", "class_embedding", vision.class_embedding)
    put("vision_model.embeddings", "patch_embedding.weight", vision.conv1.weight)
    put("vision_model.embeddings", "position_embedding.weight", vision.positional_embedding)
    put("text_model.embeddings", "token_embedding.weight", text.token_embedding.weight)
    put("text_model.embeddings", "position_embedding.weight", text.positional_embedding)
    for kind in ("weight", "bias"):
        put("vision_model", f"pre_layrnorm.{kind}", getattr(vision.ln_pre, kind))
        put("vision_model", f"post_layernorm.{kind}", getattr(vision.ln_post, kind))
        put("text_model", f"final_layer_norm.{kind}", getattr(text.ln_final, kind))
    theirs.visual_projection.weight.data.copy_(vision.proj.T)
    theirs.text_projection.weight.data.copy_(text.text_projection.T)
    x, ids = torch.randn(2, 3, 224, 224), open_clip.get_tokenizer(CLIP_B32.model)(["a dog in the snow", "a red vase"])
    seen = theirs.visual_projection(theirs.vision_model(x).pooler_output)
    torch.testing.assert_close(ours.encode_image(x), seen, atol=2e-5, rtol=1e-4)
    theirs.text_model.eos_token_id = 49407
    expected = theirs.text_projection(theirs.text_model(ids).pooler_output)
    torch.testing.assert_close(ours.encode_text(ids), expected, atol=2e-5, rtol=1e-4)
    gelu = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    gelu.load_state_dict(ours.state_dict())
    assert (gelu.encode_image(x) - ours.encode_image(x)).abs().max() > 1e-3  # what quick GELU is there for


def test_clips_own_token_ids():
    ids = open_clip.get_tokenizer(CLIP_B32.model)("a photo of a dog")[0]
    assert ids[:7].tolist() == [49406, 320, 1125, 539, 320, 1929, 49407]


def test_dino_files_of_both_layouts_load(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model(DINO_S16.model, pretrained=False, num_classes=0)
    torch.save({f"module.backbone.{n}": v for n, v in source.state_dict().items()}, tmp_path / "teacher.pth")
    torch.save(source.state_dict(), tmp_path / "plain.pth")
    loaded = [load_dino(DINO_S16, tmp_path / name, "cpu") for name in ("teacher.pth", "plain.pth")]
    assert loaded[0].weights_sha256 == loaded[1].weights_sha256 == encoders.weights_hash(source)
    assert not loaded[0].verified  # the publisher gives no hash


def test_clip_files_are_held_to_their_published_hash(clip, tmp_path):
    tiny = EncoderSpec("open_clip", CLIP_B32.model, CLIP_B32.preprocess, "a file", "0" * 64)
    path = tmp_path / "clip.pt"
    torch.save(clip.state_dict(), path)
    with pytest.raises(VectorFitError, match=r"--clip_weights .*expected 00000000.*must not have that name"):
        load_clip(tiny, path, "cpu")
    right = EncoderSpec(
        "open_clip", CLIP_B32.model, CLIP_B32.preprocess, "", hashlib.sha256(path.read_bytes()).hexdigest()
    )
    encoder = load_clip(right, path, "cpu")
    assert encoder.verified
    assert encoder.texts(["a dog"]).shape == (1, 512)
    with pytest.raises(VectorFitError, match="no such file; expected OpenAI's"):
        load_clip(CLIP_B32, tmp_path / "absent.pt", "cpu")


@pytest.mark.slow
def test_openais_archive_and_dinov2s_file_load(tmp_path):
    """OpenAI publishes a TorchScript archive; timm's DINOv2 has position embeddings for 518 pixels and a mask token."""
    torch.manual_seed(0)
    model = open_clip.create_model(CLIP_B32.model, pretrained=None).eval()
    path, words = tmp_path / "ViT-B-32.pt", torch.zeros(1, 77, dtype=torch.int)
    torch.jit.save(torch.jit.trace(model, (torch.zeros(1, 3, 224, 224), words), check_trace=False), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    spec = EncoderSpec("open_clip", CLIP_B32.model, CLIP_B32.preprocess, "", digest)
    assert load_clip(spec, path, "cpu").weights_sha256 == encoders.weights_hash(model)
    tiny = timm.create_model("vit_base_patch14_dinov2", pretrained=False, num_classes=0)
    torch.save({**tiny.state_dict(), "mask_token": torch.zeros(1, 768)}, tmp_path / "dinov2.pth")
    encoder = load_dino(PROTOCOLS["dinov2"].dino, tmp_path / "dinov2.pth", "cpu")
    assert encoder.embed(torch.zeros(1, 3, 224, 224)).shape == (1, 768)


def test_weights_out_of_reach_name_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(VectorFitError, match=r"not available.*--dino_weights.*--protocol starter"):
        load_dino(DINO_S16, None, "cpu")
    with pytest.raises(VectorFitError, match=r"not available.*--clip_weights.*--protocol starter"):
        load_clip(CLIP_B32, None, "cpu")


def test_every_protocol_has_its_own_hash_and_the_starters_has_its_own_names():
    hashes = {protocol.hash for protocol in PROTOCOLS.values()}
    hashes |= {protocols.named(name, with_token=True).hash for name in PROTOCOLS}
    assert len(hashes) == 2 * len(PROTOCOLS)
    assert not set(PROTOCOLS["starter"].labels) & set(PROTOCOLS["dreambench-2023"].labels)
    assert all(label.startswith("starter") for label in PROTOCOLS["starter"].labels)
    with pytest.raises(VectorFitError, match="expected one of dreambench-2023"):
        protocols.named("dreambench")


def test_the_starters_encoders_load_and_a_picture_is_the_same_in_any_company():
    from tests.eval.pictures import noise

    starter = Encoders.load(PROTOCOLS["starter"])
    images = [noise(seed, 64) for seed in range(BATCH + 5)]
    for encoder in (starter.dino, starter.clip):
        together = encoder.images(images)
        assert together.shape[0] == len(images)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(len(images)))
        for index in (0, 3, BATCH, BATCH + 4):
            torch.testing.assert_close(encoder.images([images[index]])[0], together[index], atol=1e-6, rtol=0)
    alone, both = starter.clip.texts(["a red dog"]), starter.clip.texts(["a cat on the beach", "a red dog"])
    assert torch.equal(alone[0], both[1])
    with pytest.raises(VectorFitError, match="has no tokenizer"):
        starter.dino.texts(["a dog"])


def test_an_encoders_key_tells_weights_and_preparation_apart():
    how = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3)
    keys = {Encoder(*known, True, torch.flatten).key for known in (("a", how, "1"), ("a", how, "2"), ("b", how, "1"))}
    assert len(keys) == 3
