"""Masks: read, refused, and what they weigh."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import masks
from vf_dreambooth.objective import per_sample_loss
from vf_dreambooth.photos import photo_paths, read_folder


def mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("L", size, 0)
    picture.paste(255, box)
    return picture


def test_a_mask_beside_its_photo_and_a_photos_transparency(photos):
    mask((20, 24), (0, 0, 10, 24)).save(photos / "0.mask.png")
    clear = Image.open(photos / "1.png").convert("RGBA")
    clear.putalpha(mask((20, 24), (5, 0, 10, 24)))
    clear.save(photos / "1.png")
    mask((20, 24), (0, 0, 20, 24)).save(photos / "2.mask.png")  # white everywhere
    found = read_folder(photos)
    assert found.names == ["0.png", "1.png", "2.png"]
    assert not found.ignored
    assert found.masks[0].getbbox() == (0, 0, 10, 24)
    assert found.masks[1].getbbox() == (5, 0, 10, 24)
    assert found.masks[2] is None
    assert set(found.sha256) == {"0.png", "1.png", "2.png", "0.mask.png", "2.mask.png"}
    assert [path.name for path in photo_paths(photos)] == found.names


def test_a_mask_fits_its_photo_as_it_is_shown(photos):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 20), "red").save(photos / "turned.jpg", exif=exif)
    mask((20, 40), (0, 0, 9, 9)).save(photos / "turned.mask.png")
    assert read_folder(photos).masks[3].size == (20, 40)


def test_every_bad_mask_is_named_and_nothing_is_written(photos, tiny_base, tmp_path):
    mask((10, 10), (0, 0, 5, 5)).save(photos / "0.mask.png")
    mask((20, 24), (0, 0, 0, 0)).save(photos / "1.mask.png")
    (photos / "2.mask.png").write_bytes(b"no picture")
    mask((8, 8), (0, 0, 4, 4)).save(photos / "9.mask.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(photos / "4.png")
    with pytest.raises(vf.VectorFitError) as caught:
        main(["--instance_dir", str(photos), "--base_model", str(tiny_base), "--output_dir", str(tmp_path / "run")])
    lines = str(caught.value).splitlines()
    reasons = {
        "0.mask.png": "10 x 10 pixels, expected 20 x 24",
        "1.mask.png": "black everywhere",
        "2.mask.png": "cannot be read as a PNG",
        "4.png": "transparent everywhere",
        "9.mask.png": "a mask without its photo",
    }
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        assert [line for line in lines if name in line and reason in line], (name, lines)
    assert not (tmp_path / "run").exists()


@given(st.integers(20, 60), st.integers(20, 60), st.data())
def test_the_cut_keeps_a_subject_that_fits_into_it(width, height, data):
    side = min(width, height)
    w, h = data.draw(st.integers(1, side)), data.draw(st.integers(1, side))
    left, top = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    whole = mask((width, height), (left, top, left + w, top + h))
    cut = ImageOps.fit(whole, (side, side), Image.Resampling.NEAREST, centering=masks.centering(whole))
    lost = np.asarray(whole).sum() / 255 - np.asarray(cut).sum() / 255
    assert lost <= max(w, h)  # a row or column at most: positions are whole pixels


@pytest.mark.parametrize("unmasked", [0.0, 0.1, 1.0])
def test_weights_have_mean_one_and_the_given_ratio(unmasked):
    half, quarter = mask((16, 16), (0, 0, 8, 16)), mask((16, 16), (0, 0, 8, 8))
    found = masks.weights([half, quarter], 2, (4, 4), unmasked)
    assert found.shape == (2, 1, 4, 4)
    torch.testing.assert_close(found.mean(), torch.tensor(1.0))
    torch.testing.assert_close(found[0, 0, 0, 3], unmasked * found[0, 0, 0, 0])
    assert (masks.weights(None, 2, (4, 4), unmasked) == 1).all()


def test_the_ground_counts_as_much_as_its_weight():
    weight = masks.weights([mask((8, 8), (0, 0, 4, 8))], 1, (4, 4), 0.25)
    target = torch.zeros(1, 3, 4, 4)
    on_subject, on_ground = torch.zeros_like(target), torch.zeros_like(target)
    on_subject[..., 0], on_ground[..., 3] = 2.0, 2.0
    subject, ground = per_sample_loss(on_subject, target, weight), per_sample_loss(on_ground, target, weight)
    torch.testing.assert_close(ground, 0.25 * subject)
    plain = per_sample_loss(on_subject, target, torch.ones_like(weight))
    torch.testing.assert_close(plain, torch.nn.functional.mse_loss(on_subject, target)[None])


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def test_a_mask_changes_what_is_trained_unless_the_ground_counts_as_much(arguments, photos, whole, tmp_path, capsys):
    for index in range(3):
        mask((20, 24), (2, 8, 12, 16)).save(photos / f"{index}.mask.png")
    main(arguments(tmp_path / "masked"))
    assert "3 with a mask; what it leaves out counts 0.1" in capsys.readouterr().out
    assert any(not torch.equal(v, vectors(whole)[name]) for name, v in vectors(tmp_path / "masked").items())
    main(arguments(tmp_path / "even", "--unmasked_weight", 1))
    for name, vector in vectors(tmp_path / "even").items():
        torch.testing.assert_close(vector, vectors(whole)[name], atol=1e-4, rtol=1e-3)
