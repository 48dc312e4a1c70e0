"""The details of a subject, and its exports."""

import json
import zipfile

import pytest
from PIL import Image

import vectorfit as vf
from app.subject_details import EXPORTS, facts, scores, settings, write_export, write_figures
from app.subjects import Library
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve


@pytest.fixture
def library(root):
    return Library(root, bases=(resolve("starter"),))


def test_facts_settings_and_figures(library, tmp_path):
    subject = library.find("rex")
    rows = dict(map(tuple, facts(subject)))
    assert rows["trigger phrase"] == "sks dog"
    assert rows["training took"] == "2 s"
    assert ["class_noun", "dog"] in settings(subject)
    figures = write_figures(subject, tmp_path)
    assert set(figures) == {"Loss", "Training strength", "Frozen vectors"}
    for path in figures.values():
        with Image.open(path) as image:
            assert min(image.size) > 100
    assert scores(subject) == []


def test_an_uploaded_file_alone_has_no_log_to_show(library, subject_file, tmp_path):
    assert set(write_figures(library.add(subject_file), tmp_path)) == {"Training strength"}


def test_scores_are_those_of_the_evaluator(library):
    file = library.root / "rex" / "evaluation" / "scores.json"
    file.parent.mkdir()
    overall = {"dino": {"mean": 0.5, "low": 0.4, "high": 0.6}, "clip_t": None}
    result = {"schema": "vectorfit-eval/1", "labels": {"dino": "starter DINO", "clip_t": "x"}, "overall": overall}
    file.write_text(json.dumps(result | {"protocol": {"name": "starter"}}))
    assert scores(library.find("rex")) == [["starter DINO", "0.500", "0.400 to 0.600", "starter"]]
    file.write_text("{}")
    assert scores(library.find("rex")) == []


def test_every_export_is_one_file_that_loads(library, tmp_path):
    subject = library.find("rex")
    with pytest.raises(VectorFitError, match="expected subject file"):
        write_export(library, subject, "../x", tmp_path)
    files = {kind: write_export(library, subject, kind, tmp_path) for kind in EXPORTS}
    assert vf.read_metadata(files["subject file"])["vectorfit.base_model"] == "starter"
    with zipfile.ZipFile(files["merged pipeline (zip)"]) as archive:
        assert "model_index.json" in archive.namelist()
    for kind, file in files.items():
        assert file.stat().st_size > 1000, kind
        assert file.parent == tmp_path
