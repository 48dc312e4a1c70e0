"""The details of a subject, and its exports."""

import json
import zipfile
from xml.etree import ElementTree

import pytest

import vectorfit as vf
from app.subject_details import EXPORTS, INK, facts, figures, scores, settings, write_export
from app.subjects import Library
from vectorfit import VectorFitError
from vf_dreambooth.base_models import resolve


@pytest.fixture
def library(root):
    return Library(root, bases=(resolve("starter"),))


def test_facts_settings_and_figures(library):
    subject = library.find("rex")
    rows = dict(map(tuple, facts(subject)))
    assert rows["trigger phrase"] == "sks dog"
    assert rows["training took"] == "2 s"
    assert ["class_noun", "dog"] in settings(subject)
    drawn = figures(subject)
    assert set(drawn) == {"Loss", "Training strength", "Frozen vectors"}
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)  # well-formed
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "currentColor" in svg  # readable in light and dark
        assert INK not in svg
    assert scores(subject) == []


def test_an_uploaded_file_alone_has_no_log_to_show(library, subject_file):
    assert set(figures(library.add(subject_file))) == {"Training strength"}


def test_scores_are_those_of_the_evaluator(library):
    file = library.root / "rex" / "evaluation" / "scores.json"
    file.parent.mkdir()
    overall = {"dino": {"mean": 0.5, "low": 0.4, "high": 0.6}, "clip_t": None, "photos": {"dino": 0.9}}
    result = {"schema": "vectorfit-eval/1", "labels": {"dino": "starter DINO", "clip_t": "x"}, "overall": overall}
    file.write_text(json.dumps(result | {"protocol": {"name": "starter"}}))
    assert scores(library.find("rex")) == [["starter DINO", "0.500", "0.400 to 0.600", "0.900", "–", "starter"]]
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
