"""Folders of photos: what is read, what is refused, and what is warned of."""

import contextlib
import os
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vectorfit import VectorFitError
from vf_dreambooth import photos as photo_reader
from vf_dreambooth.photos import open_photo, read_folder


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = side.to_bytes(4, "big")
    header = size + size + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


DAMAGED = {
    "bomb.png": (bomb(20_000), "exceeds limit"),
    "empty.jpg": (b"", "it is empty, 0 bytes"),
    "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "an EPS file"),
    "noise.webp": (b"no picture at all", "not a JPEG, PNG, WebP, AVIF or HEIC"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "a damaged HEIC or AVIF"),
    "psd.jpg": (b"8BPS" + bytes(60), "a Photoshop file"),
    "clip.jpg": (b"\0\0\0\x18ftypisom" + bytes(40), "a video; save single frames of it as JPEG"),
    "text.heic": (b"not a photo at all", "not a JPEG, PNG, WebP, AVIF or HEIC"),
}


def test_photos_are_upright_rgb_in_order_and_other_files_are_named(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: 40 x 20 is shown as 20 x 40
    Image.new("RGB", (40, 20), "red").save(tmp_path / "b.jpg", exif=exif)
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (4, 4, 8, 8))
    clear.save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "c.webp")
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    photos = read_folder(tmp_path)
    assert photos.names == ["a.png", "b.jpg", "c.webp"]
    assert photos.ignored == [".DS_Store", "folder", "notes.txt"]
    assert photos.images[0].getpixel((0, 0)) == (255, 255, 255)  # transparency lies over white
    assert photos.images[1].size == (20, 40)
    assert all(image.mode == "RGB" for image in photos.images)


def test_only_the_decoders_of_photos_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "disguised.png", format="BMP")
    with pytest.raises(VectorFitError, match=r"disguised\.png.*not a JPEG, PNG, WebP, AVIF or HEIC"):
        open_photo(tmp_path / "disguised.png")


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_photo_is_shown_as_the_phone_shows_it(tmp_path, suffix, orientation):
    """The corner that is red when the picture is seen upright is red in what is trained on, in every format."""
    upright = Image.new("RGB", (64, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    turns = Image.Transpose
    undo = (None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM)
    undo += (turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turn = undo[orientation - 1]
    stored = upright if turn is None else upright.transpose(turn)
    stored.save(tmp_path / f"photo{suffix}", exif=exif.tobytes(), quality=90)
    photo = open_photo(tmp_path / f"photo{suffix}")
    assert (photo.size, photo.mode) == ((64, 32), "RGB")
    red, blue = photo.getpixel((6, 6)), photo.getpixel((58, 26))
    assert red[0] > 200 > 60 > red[2], red
    assert blue[2] > 200 > 60 > blue[0], blue


@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif"])
def test_an_animation_is_refused_with_what_to_do(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / f"clip{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(VectorFitError, match=r"an animation of 3 frames, expected a photo; save single frames"):
        open_photo(tmp_path / f"clip{suffix}")


def test_a_video_alone_says_how_its_frames_become_photos(tmp_path):
    (tmp_path / "clip.mov").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(40))
    with pytest.raises(VectorFitError, match=r"no photos, found only clip\.mov; .*; from a video, save single frames"):
        read_folder(tmp_path)


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


def test_every_bad_picture_is_named_with_its_reason(photos, tiny_base):
    for name, (content, _) in DAMAGED.items():
        (photos / name).write_bytes(content)
    whole = (photos / "0.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "0.txt").write_bytes(b"\xff\xfe\xff")
    (photos / "1.txt").write_text(" \n")
    lines = refused("--instance_dir", photos, "--base_model", tiny_base)
    for name, (_, reason) in DAMAGED.items():
        assert [line for line in lines if name in line and reason in line], (name, lines)
    assert any("cut.png" in line and "truncated" in line for line in lines)
    assert any("0.txt" in line and "UTF-8" in line for line in lines)
    assert any("1.txt" in line and "no words in it, expected a prompt" in line for line in lines)
    assert len(lines) == len(DAMAGED) + 3


def test_sixteen_bits_and_damaged_exif(tmp_path):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    read = np.asarray(photo_reader.open_photo(tmp_path / "deep.png"))[..., 0]
    assert abs(read.astype(int) - grey // 257).max() <= 1
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    whole = (tmp_path / "x.jpg").read_bytes()
    for place in range(20, 60):
        (tmp_path / "x.jpg").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with contextlib.suppress(vf.VectorFitError):  # refused or read, but never an error of the decoder's own
            photo_reader.open_photo(tmp_path / "x.jpg")


def test_an_unreadable_folder(photos, tiny_base):
    photos.chmod(0)
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(65534)  # root may read everything, nobody may not
        with pytest.raises(vf.VectorFitError, match="cannot be read"):
            photo_reader.read_folder(photos)
    finally:
        os.seteuid(was)
        photos.chmod(0o755)


def scenes() -> list[Image.Image]:
    """A picture, the same smaller and brighter, and another one."""
    rng = np.random.default_rng(3)
    one, other = (
        Image.fromarray(rng.integers(0, 200, (6, 6, 3), dtype=np.uint8)).resize((200, 200), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    return [one, one.resize((90, 90)).point(lambda level: level * 1.2), other]


def test_odd_photos_are_warned_of(photos):
    Image.open(photos / "0.png").save(photos / "3.jpg", quality=95)
    found = photo_reader.read_folder(photos)
    assert found.warnings(16) == ["0.png and 3.jpg are nearly the same picture"]
    assert photo_reader.Photos([*scenes()], ["a", "b", "c"], []).alike() == [(0, 1)]
    small = found.warnings(64)
    assert "0.png is 20 x 24, smaller than the 64 pixels trained on" in small
    assert len(small) == 5
    for name in ("1.png", "2.png", "3.jpg"):
        (photos / name).unlink()
    assert photo_reader.read_folder(photos).warnings(16) == ["only 1 photo(s); three to ten work better"]
