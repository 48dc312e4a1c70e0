import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import vectorfit as vf
from vectorfit.layers import VectorFitLayer
from vf_training import methods
from vf_training.__main__ import main
from vf_training.analysis import (
    Weights,
    analyze,
    cell,
    frozen_spans,
    heatmap,
    rank_numbers,
    shifts_of_full_fine_tuning,
    strengths,
)
from vf_training.runs import RunFolder


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("bert.encoder.layer.11.attention.self.query.sigma", "bert.encoder.attention.self.query σ", "11"),
        ("unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.sigma", "unet.attn1.to_q σ", "down 0.1"),
        ("unet.mid_block.resnets.1.time_emb_proj.bias", "unet.time_emb_proj b", "mid 1"),
        ("unet.time_embedding.linear_1.bias", "unet.time_embedding.linear_1 b", ""),
        ("model.layers.3.mlp.up_proj.sigma", "model.mlp.up_proj σ", "3"),
        ("transformer.h.2.mlp.c_fc.bias", "transformer.mlp.c_fc b", "2"),
        ("unet.up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.sigma", "unet.ff.net.0.proj σ", "up 1.0"),
    ],
)
def test_every_vector_has_its_place_in_the_heatmap(name, row, column):
    assert cell(name) == (row, column)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, x):
        return x + self.mlp(self.attn(x))[..., :8]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def trained(folder):
    """A run folder with a training of known deltas and a log of known freezings."""
    torch.manual_seed(0)
    net = Model()
    vf.inject(net)
    with torch.no_grad():
        for index, vector in enumerate(vf.vector_parameters(net).values()):
            vector.normal_(std=0.1 * (index + 1))
    folder.mkdir(exist_ok=True)
    vf.save_vectors(net, folder / "vectors.safetensors", base_model="test")
    paused = {"layers.0.attn.sigma": (4, 5, 6, 9), "layers.2.mlp.bias": (8, 9, 10)}
    for step in range(1, 11):
        frozen = [name for name, steps in paused.items() if step in steps]
        RunFolder(folder).append_log({"step": step, "loss": 1.0, "frozen": frozen})
    return net


def test_a_run_is_told_in_figures_and_numbers(tmp_path):
    net = trained(tmp_path / "run")
    written = analyze(tmp_path / "run")
    assert [path.name for path in written] == [
        "strength.png",
        "timeline.png",
        "spectra.png",
        "shifts.png",
        "analysis.json",
    ]
    for path in written[:-1]:
        image = Image.open(path)
        assert min(image.size) > 150
        assert len(set(image.convert("L").resize((64, 64)).get_flattened_data())) > 20  # something is drawn
    numbers = json.loads(written[-1].read_text())
    vectors = vf.vector_parameters(net)
    assert numbers["strength"] == {n: pytest.approx(v.abs().mean().item(), rel=1e-6) for n, v in vectors.items()}
    assert numbers["frozen"] == {"layers.0.attn.sigma": [[4, 6], [9, 9]], "layers.2.mlp.bias": [[8, 10]]}
    assert numbers["steps_frozen"] == {"layers.0.attn.sigma": 4, "layers.2.mlp.bias": 3}
    for path, found in numbers["change"].items():
        layer = net.get_submodule(path)
        assert found["norm"] == pytest.approx(layer.change(layer.d_sigma).norm().item(), rel=1e-5)
        assert found["rank"] == 8


def test_the_same_run_gives_the_same_bytes(tmp_path):
    trained(tmp_path / "run")
    first = {path.name: path.read_bytes() for path in analyze(tmp_path / "run", tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in analyze(tmp_path / "run", tmp_path / "b")}
    assert first == second


def test_the_heatmap_shows_each_number_at_its_place():
    values = {
        f"layers.{block}.{part}.{kind}": block + 10 * (part == "mlp") + 0.5 * (kind == "bias")
        for block in range(12)
        for part in ("attn", "mlp")
        for kind in ("sigma", "bias")
    }
    axis = heatmap(values).axes[0]
    shown = axis.images[0].get_array()
    rows = [text.get_text() for text in axis.get_yticklabels()]
    columns = [text.get_text() for text in axis.get_xticklabels()]
    assert rows == ["attn σ", "attn b", "mlp σ", "mlp b"]
    assert columns == [str(block) for block in range(12)]  # 2 before 10
    assert shown[rows.index("mlp b"), columns.index("11")] == 21.5
    assert shown[rows.index("attn σ"), columns.index("3")] == 3


def test_each_of_a_pipelines_models_has_its_panel():
    names = ("unet.a.sigma", "text_encoder.a.sigma", "text_encoder_2.a.sigma")
    assert [axis.get_title() for axis in heatmap(dict.fromkeys(names, 1.0)).axes[:3]] == [
        "unet",
        "text encoder",
        "text encoder 2",
    ]


def test_ranks_in_closed_form():
    assert rank_numbers(torch.zeros(5)) == {"norm": 0.0, "rank": 0, "stable_rank": 0.0, "effective_rank": 0.0}
    flat = rank_numbers(torch.full((16,), -3.0))
    assert flat == {"norm": 12.0, "rank": 16, "stable_rank": 16.0, "effective_rank": pytest.approx(16)}
    one = rank_numbers(torch.tensor([0.0, 7.0, 0.0]))
    assert one == {"norm": 7.0, "rank": 1, "stable_rank": 1.0, "effective_rank": pytest.approx(1)}
    halves = rank_numbers(torch.tensor([1.0, 1.0, 1e-12]))
    assert halves["rank"] == 2
    assert math.isclose(halves["effective_rank"], 2, rel_tol=1e-6)


def test_full_fine_tuning_is_compared_where_its_weights_are_given(tmp_path):
    """A "full fine-tuning" that moved the singular values as VectorFit did has the same spectrum and shifts."""
    net = trained(tmp_path / "run")
    layers = {path: layer for path, layer in net.named_modules() if isinstance(layer, VectorFitLayer)}
    base = {f"model.{path}.weight": layer.weight.detach().clone() for path, layer in layers.items()}
    full = {f"model.{path}.weight": layer.composed()[0].detach() for path, layer in layers.items()}
    (tmp_path / "full").mkdir()
    save_file(base, tmp_path / "base.safetensors")
    save_file(full, tmp_path / "full" / "model.safetensors")
    written = analyze(tmp_path / "run", base=tmp_path / "base.safetensors", full=tmp_path / "full")
    assert "shifts_full.png" in [path.name for path in written]
    numbers = json.loads(written[-1].read_text())
    for path, found in numbers["full_fine_tuning"].items():
        assert found["norm"] == pytest.approx(numbers["change"][path]["norm"], rel=1e-3)
        assert found["effective_rank"] == pytest.approx(numbers["change"][path]["effective_rank"], rel=1e-2)
    weights = Weights(tmp_path / "base.safetensors"), Weights(tmp_path / "full")
    for path, moved in shifts_of_full_fine_tuning(layers, *weights).items():
        torch.testing.assert_close(moved, layers[path].d_sigma.detach(), atol=1e-4, rtol=1e-3)


def test_the_command_says_what_is_missing_in_one_line(tmp_path, capsys):
    assert main(["analyze", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "vectors.safetensors") in error
    assert error.count("\n") == 1
    trained(tmp_path)
    assert main(["analyze", str(tmp_path), "--full", str(tmp_path)]) == 2
    assert "base" in capsys.readouterr().err
    assert main(["analyze", str(tmp_path / "vectors.safetensors"), "--output_dir", str(tmp_path / "here")]) == 0
    assert (tmp_path / "here" / "strength.png").exists()
    save_file({"other.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    flags = ["--base", str(tmp_path / "other.safetensors"), "--full", str(tmp_path / "other.safetensors")]
    assert main(["analyze", str(tmp_path / "vectors.safetensors"), *flags]) == 2
    assert "expected one" in capsys.readouterr().err


def test_without_a_log_there_is_no_timeline_and_wider_patterns_have_no_spectra(tmp_path):
    net = Model()
    vf.inject(net, vf.VectorFitConfig(pattern="banded"))
    vf.save_vectors(net, tmp_path / "v.safetensors", base_model="test")
    assert [path.name for path in analyze(tmp_path / "v.safetensors")] == ["strength.png", "analysis.json"]
    assert set(strengths(vf.vector_parameters(net)).values()) == {0.0}


def test_spans_join_consecutive_steps_only():
    entries = [
        {"step": 1, "frozen": ["a"]},
        {"step": 2, "frozen": ["a", "b"]},
        {"step": 5, "frozen": ["a"]},
        {"step": 6},
    ]
    assert frozen_spans(entries) == {"a": [(1, 2), (5, 5)], "b": [(2, 2)]}
    assert frozen_spans([]) == {}
    thinned = [{"step": step, "frozen": ["a"] if step in (20, 30, 50) else []} for step in range(10, 60, 10)]
    assert frozen_spans(thinned) == {"a": [(20, 30), (50, 50)]}


def test_a_baselines_difference_is_taken_for_what_it_is(tmp_path):
    """A full training as `--method full` writes it, given as --full: its norm is the change's, not the weight's."""
    net = trained(tmp_path / "run")
    plain = Model()
    plain.load_state_dict({n: v for n, v in net.state_dict().items() if "d_" not in n})
    save_file({f"text_model.{n}": v.clone() for n, v in plain.state_dict().items()}, tmp_path / "base.safetensors")
    full = methods.put_in("full", plain)
    with torch.no_grad():
        for parameter in full.parameters.values():
            parameter += 0.01
    (tmp_path / "full").mkdir()
    methods.save(full, tmp_path / "full" / "vectors.safetensors", base_model="test")
    (tmp_path / "full" / "checkpoints").mkdir()
    save_file({"layers.0.attn.weight": torch.zeros(8, 8)}, tmp_path / "full" / "checkpoints" / "x.safetensors")
    written = analyze(tmp_path / "run", base=tmp_path / "base.safetensors", full=tmp_path / "full")
    numbers = json.loads(written[-1].read_text())
    assert numbers["full_fine_tuning"]["layers.0.attn"]["norm"] == pytest.approx(0.01 * 8, rel=1e-2)
    with pytest.raises(vf.VectorFitError, match="no vectors to show"):
        analyze(tmp_path / "full")


def test_odd_files_are_one_sentence(tmp_path, capsys):
    trained(tmp_path / "run")
    save_file({"layers.0.attn.weight": torch.zeros(4, 4), "0.weight": torch.zeros(2, 2)}, tmp_path / "odd.safetensors")
    flags = ["--base", str(tmp_path / "odd.safetensors"), "--full", str(tmp_path / "odd.safetensors")]
    assert main(["analyze", str(tmp_path / "run"), *flags]) == 2
    assert "expected one" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["analyze", str(tmp_path / "run"), "--output_dir", str(tmp_path / "file" / "x")]) == 2
    assert "name another folder" in capsys.readouterr().err
    for line in ('{"loss": 1}', "5", '{"step": "a"}'):
        (tmp_path / "run" / "log.jsonl").write_text(line + "\n")
        assert main(["analyze", str(tmp_path / "run")]) == 2
        assert "has no step" in capsys.readouterr().err
    (tmp_path / "run" / "log.jsonl").write_bytes(b'{"step": 1, "frozen": null}\n\xff\xfe')
    assert main(["analyze", str(tmp_path / "run")]) == 0
