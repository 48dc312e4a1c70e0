"""The check of uploaded photos."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from app.photo_check import UNREADABLE, check_photos, guess_noun
from vectorfit import VectorFitError


def test_every_photo_gets_a_row_with_what_to_know(tmp_path):
    rng = np.random.default_rng(0)

    def photo(name, size=(80, 100), **more):
        image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        image.save(tmp_path / name, **more)
        return tmp_path / name

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    paths = [photo("dog1.png"), photo("dog2.jpg", exif=exif), photo("dog3.png", (20, 30)), tmp_path / "dog4.png"]
    paths[3].write_bytes(paths[0].read_bytes())
    near = np.asarray(Image.open(paths[0])).copy()
    near[:5, :5] = 0
    Image.fromarray(near).save(tmp_path / "dog5.png")
    (tmp_path / "dog6.jpg").write_bytes(b"GIF89a not a photo")
    checked = check_photos([*paths, tmp_path / "dog5.png", tmp_path / "dog6.jpg"], 64)
    rows = {name: (pixels, note) for name, pixels, note in checked.rows}
    assert rows["dog2.jpg"] == ("80 x 100", "turned upright")
    assert "smaller than the 64 pixels" in rows["dog3.png"][1]
    assert rows["dog4.png"][1] == "the same file as dog1.png"
    assert rows["dog5.png"][1] == "nearly the same as dog1.png"
    assert rows["dog1.png"][1] == "good"
    assert rows["dog6.jpg"][0] == UNREADABLE
    assert "a GIF" in rows["dog6.jpg"][1]
    assert str(tmp_path) not in str(checked.rows)
    assert (checked.unreadable, checked.noun, len(checked.images)) == (1, "dog", 4)


@pytest.mark.parametrize(
    ("stems", "noun"),
    [
        (["dog1", "dog2", "dog-3"], "dog"),
        (["teapot (1)", "teapot (2)"], "teapot"),
        (["IMG_0001", "IMG_0002"], ""),
        (["DSC01234", "PXL_20240101", "dog"], ""),
        (["dog", "cat", "teapot"], ""),
        (["00", "01"], ""),
        ([], ""),
    ],
)
def test_the_noun_is_what_most_names_say(stems, noun):
    assert guess_noun(stems) == noun


def test_a_photo_that_would_fill_the_memory_is_refused_by_its_header(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    (row,) = check_photos([tmp_path / "huge.png"], 64).rows
    assert row == ["huge.png", UNREADABLE, "81 million pixels, expected at most 50; scale it down"]


def test_photos_that_would_fill_the_memory_together_are_refused_by_their_headers(tmp_path):
    for number in range(5):
        Image.new("1", (7000, 7000)).save(tmp_path / f"{number}.png")
    with pytest.raises(VectorFitError, match="245 million pixels together, expected at most 200"):
        check_photos(sorted(tmp_path.glob("*.png")), 64)


def test_two_photos_of_one_name_keep_their_own_notes(tmp_path):
    for folder, side in (("a", 20), ("b", 100)):
        (tmp_path / folder).mkdir()
        rng = np.random.default_rng(side)
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(tmp_path / folder / "1.png")
    first, second = check_photos([tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"], 64).rows
    assert "smaller" in first[2]
    assert second[2] == "good"
