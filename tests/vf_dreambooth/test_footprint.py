"""What a training takes at least is known, and refused, before the base's weights are there."""

import shutil

import pytest
from torch import nn

import vectorfit as vf
from tests.vf_dreambooth.families.tiny import BUILDERS, tiny
from vectorfit import VectorFitError
from vectorfit.modules import named_modules
from vf_dreambooth import footprint
from vf_dreambooth.families import FAMILIES, family_at
from vf_dreambooth.families.skeleton import skeleton
from vf_dreambooth.footprint import Footprint, of_parts
from vf_dreambooth.setup import prepare
from vf_training import methods

LARGE = Footprint(trained=2**26, vectors=3, weights=2**30, factors=2**31, square=2**30, frozen=2**30)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_arithmetic_is_what_the_injected_base_has(family, tmp_path):
    pipe = tiny(type(family))
    pipe.save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()  # only the configuration is read
    found = of_parts(family_at(str(tmp_path)), skeleton(str(tmp_path)), text_encoders=False)
    models = family.models_to_train(pipe, text_encoders=False)
    unreached = family.unreached(pipe)
    every = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    assert found.weights == sum(p.numel() for model in models.values() for p in model.parameters())
    assert found.weights + found.frozen == sum(p.numel() for part in every for p in part.parameters())
    left = tuple(path for path, module in named_modules(models) if any(module is each for each in unreached))
    vectors = methods.put_in("no_avf", models, methods.Options(exclude=left)).parameters
    layers = [m for model in models.values() for m in model.modules() if isinstance(m, vf.layers.VectorFitLayer)]
    assert (found.vectors, found.trained) == (len(vectors), sum(v.numel() for v in vectors.values()))
    assert found.factors == sum(layer.U.numel() + layer.Vh.numel() for layer in layers)
    assert found.square == sum(min(layer.U.numel(), layer.Vh.numel()) for layer in layers)


def test_every_builder_has_its_family():
    assert {type(family) for family in FAMILIES} == BUILDERS.keys()


ADAPTED = "weights 4.0, their factors 8.0, vectors and what AdamW keeps of them 1.0"
SHORTAGES = {
    (18, None): "",
    (16, None): (
        f"takes at least 17.0 GiB ({ADAPTED}, models that stay as they are 4.0), and the machine has 16.0 GiB"
    ),
    (16, 14): "",
    (16, 12): f"takes at least 13.0 GiB ({ADAPTED}), and the accelerator has 12.0 GiB",
    (7, 14): "has 8.0 GiB of weights to load, and the machine has 7.0 GiB of main memory",
}


@pytest.mark.parametrize(("main", "accelerator"), SHORTAGES)
def test_a_shortage_is_explained_in_numbers(main, accelerator):
    assert LARGE.shortage(main * 2**30, accelerator and accelerator * 2**30) == SHORTAGES[main, accelerator]


def test_half_precision_and_square_factors_take_less():
    assert LARGE.bytes() == 13 * 2**30
    assert LARGE.bytes(2, 2) == 7 * 2**30
    assert LARGE.bytes(2, 2, square=True) == 5 * 2**30


@pytest.mark.parametrize("flags", [(), ("--dry_run",)])
def test_a_base_that_cannot_fit_is_refused_before_its_weights_are_fetched(
    flags, arguments, tiny_base, tmp_path, monkeypatch
):
    without_weights = tmp_path / "base"
    shutil.copytree(tiny_base, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    line = [str(without_weights) if part == str(tiny_base) else part for part in arguments(tmp_path / "run", *flags)]
    prepare(line)
    monkeypatch.setattr(footprint, "main_memory", lambda: 500_000)
    with pytest.raises(
        VectorFitError, match=r"memory: to train base takes at least 0\.0 GiB \(weights 0\.0, .*smaller base"
    ):
        prepare(line)


def test_what_cannot_be_known_is_let_pass(arguments, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "main_memory", lambda: 0)
    (damaged := tmp_path / "base").mkdir()
    shutil.copytree(tiny_base, damaged, dirs_exist_ok=True)
    (damaged / "unet" / "config.json").write_text("{")
    line = [str(damaged) if part == str(tiny_base) else part for part in arguments(tmp_path / "run")]
    prepare(line)  # loading says what is wrong
    prepare(arguments(tmp_path / "run", "--method", "lora", "--no-avf"))  # it has no factors
