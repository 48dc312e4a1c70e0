"""The gallery keeps what each browser drew, apart from every other's, on disk."""

import zipfile

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import gallery as gallery_module
from app.cards import settings_link, settings_of_link
from app.gallery import Gallery
from app.generation import SavedImage
from app.picture_files import routes
from vectorfit import VectorFitError
from vf_dreambooth.images import write_png

PARAMETERS = {"prompt": "<b>sks dog</b> für zwei", "subjects": [{"name": "dog", "strength": 1.0}], "resolution": 8}


def kept(gallery, key, seeds=(3, 4)):
    drawing = gallery.new(key, PARAMETERS, seeds, compare=True)
    for base in (True, False):
        for seed in seeds:
            path = gallery.folder / "new.png"
            write_png(path, Image.new("RGB", (8, 8)), PARAMETERS | {"seed": seed})
            gallery.keep(drawing, SavedImage(path, {"seed": seed}), base)
    return drawing


def test_a_restarted_server_finds_every_drawing_again(tmp_path):
    gallery = Gallery(tmp_path)
    key = gallery.new_key()
    drawings = [kept(gallery, key), kept(gallery, key, (9,))]
    again = Gallery(tmp_path).all(key)
    assert [drawing.id for drawing in again] == [drawing.id for drawing in reversed(drawings)]
    assert again[1].parameters == PARAMETERS
    assert set(again[1].images) == set(again[1].base_images) == {3, 4}


def test_a_gallery_is_found_by_its_own_key_alone(tmp_path):
    gallery = Gallery(tmp_path)
    mine, theirs = gallery.new_key(), gallery.new_key()
    drawing = kept(gallery, mine)
    assert gallery.all(theirs) == []
    for key in (theirs, "..", "../" + mine, "", "a"):
        with pytest.raises(VectorFitError):
            gallery.delete(key, drawing.id)
    with pytest.raises(VectorFitError):
        gallery.delete(mine, "..")
    gallery.delete(mine, drawing.id)
    assert gallery.all(mine) == []


def test_the_oldest_make_room(tmp_path, monkeypatch):
    gallery = Gallery(tmp_path)
    key = gallery.new_key()
    monkeypatch.setattr(gallery_module, "KEPT", 2)
    ids = [kept(gallery, key).id for _ in range(4)]
    assert [drawing.id for drawing in gallery.all(key)] == [ids[3], ids[2]]
    monkeypatch.setattr(gallery_module, "LARGEST_GALLERIES", 0)
    assert kept(gallery, gallery.new_key())
    assert gallery.all(key) == []


def test_pictures_and_zips_are_served_and_nothing_else(tmp_path):
    gallery = Gallery(tmp_path)
    key = gallery.new_key()
    drawing = kept(gallery, key)
    client = TestClient(Starlette(routes=routes(gallery)))
    assert client.get(f"/pictures/{key}/{drawing.id}/picture-3.png").headers["content-type"] == "image/png"
    for name in (drawing.id, "all"):
        answer = client.get(f"/pictures/{key}/{name}.zip")
        (tmp_path / "got.zip").write_bytes(answer.content)
        with zipfile.ZipFile(tmp_path / "got.zip") as archive:
            assert sum(file.endswith(".png") for file in archive.namelist()) == 4
    for path in ("drawing.json", "picture-5.png", "..%2F..%2Fx.png"):
        assert client.get(f"/pictures/{key}/{drawing.id}/{path}").status_code == 404
    assert client.get(f"/pictures/{gallery.new_key()}/{drawing.id}/picture-3.png").status_code == 404
    assert client.get(f"/pictures/{gallery.new_key()}/all.zip").status_code == 404


def test_a_link_holds_the_settings():
    text = settings_link(PARAMETERS, 7).partition("=")[2]
    assert settings_of_link(text) == PARAMETERS | {"seed": 7}
    for damaged in ("", "x", "bm90IGpzb24=", "W10=", "ü"):
        assert settings_of_link(damaged) == {}
