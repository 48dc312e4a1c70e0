"""What a person changes on a photo: its square and its caption."""

import pytest
from PIL import Image

from app.photo_edits import PhotoEdit, edits_of, store
from vectorfit import VectorFitError


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (80, 80), (7, 5)])
@pytest.mark.parametrize("crop", [(0.0, 0.0, 1.0), (0.4, 0.1, 0.5), (0.9, 0.9, 1.0), (0.99, 0.0, 0.1)])
def test_the_cut_is_a_square_inside_the_photo_with_the_side_that_was_asked_for(size, crop):
    photo = Image.new("RGB", size)
    cut = PhotoEdit(crop=crop).cut(photo)
    assert cut.size == (max(1, round(crop[2] * min(size))),) * 2


def test_the_cut_is_what_the_square_shows():
    photo = Image.new("RGB", (200, 100))
    photo.paste((255, 0, 0), (100, 20, 150, 70))
    cut = PhotoEdit(crop=(0.5, 0.2, 0.5)).cut(photo)
    assert cut.getcolors() == [(2500, (255, 0, 0))]
    assert PhotoEdit().cut(photo) is photo


def test_photos_are_stored_cut_with_their_captions_beside_them(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 20)).save(tmp_path / name)
    edits = edits_of([{"caption": " sks  dog\nat home "}, {"crop": [0, 0, 0.5]}], ["a.png", "b.png"])
    store([tmp_path / "a.png", tmp_path / "b.png"], edits, tmp_path / "stored")
    assert (tmp_path / "stored" / "00.txt").read_text() == "sks dog at home\n"
    assert not (tmp_path / "stored" / "01.txt").exists()
    assert [Image.open(tmp_path / "stored" / f"0{n}.png").size for n in (0, 1)] == [(40, 20), (10, 10)]


@pytest.mark.parametrize("values", [None, []])
def test_no_edits_leave_every_photo_as_it_is(values):
    assert edits_of(values, ["a", "b"]) == [PhotoEdit(), PhotoEdit()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{}], "got 1 entries, expected a list with one for each of the 2 photos"),
        ({"a": 1}, "got dict"),
        ([{"crop": [0, 0, 2]}, {}], "a: crop: got"),
        ([{}, {"crop": [float("nan"), 0, 1]}], "b: crop: got"),
        ([{"crop": [0, 0]}, {"crop": "wide"}], "b: "),
        ([{"caption": "x" * 1001}, 3], "a: its caption has 1001 characters"),
    ],
)
def test_edits_that_do_not_suit_the_photos_are_refused_with_the_photo(values, message):
    with pytest.raises(VectorFitError, match=message.replace("(", r"\(")):
        edits_of(values, ["a", "b"])
