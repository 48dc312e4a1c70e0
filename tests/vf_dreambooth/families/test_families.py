"""The registry: a base belongs to the family of its pipeline's class."""

import inspect
import json
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from vectorfit import VectorFitError
from vf_dreambooth import families
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families.stable_diffusion import StableDiffusion


class Other(StableDiffusion):
    name = "Other"
    pipeline_classes = ("OtherPipeline",)
    presets = {"me/other": families.Preset(1024, 1e-4, 500, 100, 30, 5.0)}  # noqa: RUF012
    default_preset = "me/other"


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, Other()))


def test_a_folder_and_a_pipeline_have_the_same_family(tiny_base):
    assert families.family_of_folder(tiny_base) is families.family_at(str(tiny_base))
    assert families.family_of(load(resolve(str(tiny_base)))) is families.family_of_folder(tiny_base)


def test_a_new_family_is_found_by_class_and_by_preset(other, tmp_path, monkeypatch):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    assert families.family_of_folder(tmp_path).name == "Other"
    assert resolve("me/other").preset.resolution == 1024

    def load_config(location, revision):
        if location == "someone/else":
            return {"_class_name": "OtherPipeline"}
        raise OSError("no connection")

    monkeypatch.setattr(DiffusionPipeline, "load_config", load_config)
    assert resolve("someone/else").preset.resolution == 1024
    assert resolve("out/of-reach").preset == resolve(families.SD14).preset
    for part in Other.parts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    assert resolve(str(tmp_path)).preset.resolution == 1024


def test_an_unknown_class_is_refused_with_all_that_are_known(other, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoFamilysPipeline"}))
    with pytest.raises(
        VectorFitError, match=r"a NoFamilysPipeline, expected a Stable Diffusion 1 or 2 or (.* or )?Other$"
    ):
        families.family_of_folder(tmp_path)


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_a_family_is_a_file_of_at_most_200_lines_and_the_documentation_says_how_many(family):
    lines = Path(inspect.getfile(type(family))).read_text().count("\n")
    assert lines <= 200
    assert f"| {family.name} | {lines} |" in (Path(__file__).parents[3] / "docs" / "bases.md").read_text()
