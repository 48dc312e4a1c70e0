"""Bad input: everything that is wrong in one message, before anything is loaded or written."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import base_models
from vf_dreambooth import photos as photo_reader
from vf_dreambooth.base_models import SD14, load, resolve

ROOT = Path(__file__).parents[2]


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


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
    "noise.webp": (b"no picture at all", "not a JPEG, PNG or WebP"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
    "psd.jpg": (b"8BPS" + bytes(60), "a Photoshop file"),
}


def test_every_bad_picture_is_named_with_its_reason(photos, tiny_base):
    for name, (content, _) in DAMAGED.items():
        (photos / name).write_bytes(content)
    whole = (photos / "0.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "0.txt").write_bytes(b"\xff\xfe\xff")
    lines = refused("--instance_dir", photos, "--base_model", tiny_base)
    for name, (_, reason) in DAMAGED.items():
        assert [line for line in lines if name in line and reason in line], (name, lines)
    assert any("cut.png" in line and "truncated" in line for line in lines)
    assert any("0.txt" in line and "UTF-8" in line for line in lines)
    assert len(lines) == len(DAMAGED) + 2


def test_everything_wrong_is_said_at_once(tmp_path, tiny_base):
    folder = tmp_path / "images"
    folder.mkdir()
    lines = refused(
        *("--instance_dir", folder, "--base_model", tiny_base, "--learning_rate", "fast", "--train_batch_size", 0),
        *("--lr_warmup_steps", 5, "--prior", "drifting", "--lerning_rate", 1, "--num_train_epochs", 4),
    )
    for expected in (
        "--learning_rate: got 'fast', expected a number",
        "--train_batch_size: got 0, expected at least 1",
        "the constant schedule has no warm-up",
        "--prior: got 'drifting', expected one of class_images, drift, none",
        "unknown argument --lerning_rate; did you mean --learning_rate?",
        "unknown argument --num_train_epochs; steps are counted here: --max_train_steps",
        "no photos, it is empty",
        "--class_noun",
    ):
        assert any(expected in line for line in lines), (expected, lines)
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prior", "drift", "--with_prior_preservation"), "contradicts"),
        (("--prior", "none", "--class_data_dir", "x"), "uses no class images"),
        (("--drift_weight", "1"), "give --prior drift"),
        (("--text_encoder_lr", "1", "--no-train_text_encoder"), "the text encoder is not trained"),
        (("--hub_model_id", "me/dog"), "without --push_to_hub"),
        (("--snr_gamma", "0"), "more than 0"),
        (("--ema_decay", "0.5"), "give --use_ema"),
        (("--avf_every", "3", "--no-avf"), "freezes nothing"),
        (("--revision", "main"), "revisions are of hub models"),
        (("--resolution", "65"), "a multiple of 8"),
        (("--ema_decay", "1", "--use_ema"), "below 1"),
        (("--adam_beta2", "nan"), "below 1"),
        (("--checkpoints_total_limit", "0"), "at least 1"),
        (("--token", " "), "rare word"),
        (("--mixed_precision", "fp16"), "needs a GPU"),
        (("--seed", "-1"), "at least 0"),
    ],
)
def test_flags_out_of_range_or_contradictory(photos, tiny_base, flags, message):
    (line,) = refused("--instance_dir", photos, "--base_model", tiny_base, *flags)
    assert message in line
    assert flags[0] in line or flags[-1] in line


def test_a_mistake_does_not_hide_another_nor_invent_one(photos, tiny_base, tmp_path):
    given = ("--instance_dir", photos, "--base_model", tiny_base)
    lines = refused(*given, "--lr_scheduler", "polynomial", "--lr_warmup_steps", 5, "--train_batch_size", 0)
    assert len(lines) == 2
    assert "--lr_scheduler: got 'polynomial'" in lines[1]
    assert "--train_batch_size: got 0" in lines[0]
    unnamed = tmp_path / "images"
    photos.rename(unnamed)
    lines = refused("--instance_dir", unnamed, "--base_model", "./nowhere", "--output_dir", unnamed / "run")
    assert [("no such folder" in lines[0]), ("--class_noun" in lines[1]), ("--output_dir" in lines[2])] == [True] * 3


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("max_train_steps", "300", "expected a int"), ("token", 5, "expected a str"), ("seed", 1.5, "expected a int")],
)
def test_recorded_settings_of_the_wrong_type(photos, tiny_base, tmp_path, setting, value, message):
    (tmp_path / "config.json").write_text(json.dumps({"settings": {setting: value}}))
    flags = ("--config", tmp_path / "config.json", "--instance_dir", photos, "--base_model", tiny_base)
    (line,) = refused(*flags)
    assert f"{setting} = {value!r}" in line
    assert message in line


def test_a_run_folder_with_foreign_settings(photos, tiny_base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"settings": {"colour": "red"}}))
    flags = ("--instance_dir", photos, "--base_model", tiny_base, "--output_dir", tmp_path / "run")
    (line,) = refused(*flags, "--resume_from_checkpoint", "latest")
    assert "unknown setting 'colour'" in line


def test_class_images_that_are_not_there_or_damaged(photos, tiny_base, tmp_path):
    given = ("--instance_dir", photos, "--base_model", tiny_base, "--class_data_dir")
    assert "--class_data_dir" in refused(*given, tmp_path / "nowhere")[0]
    (tmp_path / "dogs").mkdir()
    assert "expected pictures of the class" in refused(*given, tmp_path / "dogs")[0]
    (tmp_path / "dogs" / "a.png").write_bytes(b"x")
    assert "a.png: cannot be read" in refused(*given, tmp_path / "dogs")[0]


def test_sixteen_bits_and_damaged_exif(tmp_path):
    import numpy as np

    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    read = np.asarray(photo_reader.open_photo(tmp_path / "deep.png"))[..., 0]
    assert abs(read.astype(int) - grey // 257).max() <= 1
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    whole = (tmp_path / "x.jpg").read_bytes()
    for place in range(20, 60):
        (tmp_path / "x.jpg").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with contextlib.suppress(vf.VectorFitError):  # refused or read, but never an error of the decoder's own
            photo_reader.open_photo(tmp_path / "x.jpg")


def test_photos_that_are_no_flag(photos, tiny_base):
    assert f"did you mean --instance_dir {photos}?" in refused(photos, "--base_model", tiny_base)[0]
    assert "--instance_dir: not given" in refused("--base_model", tiny_base)[0]


def test_folders(photos, tiny_base, tmp_path):
    given = ("--base_model", tiny_base, "--class_noun", "dog")
    assert "no such folder" in refused("--instance_dir", tmp_path / "nowhere", *given)[0]
    assert "a file; expected a folder" in refused("--instance_dir", photos / "0.png", *given)[0]
    for output in (photos, photos / "runs"):
        (line,) = refused("--instance_dir", photos, *given, "--output_dir", output)
        assert "the folder of the photos or inside it" in line
    (line,) = refused("--instance_dir", photos, *given, "--output_dir", photos / "0.png")
    assert "--output_dir" in line
    assert sorted(p.name for p in photos.iterdir()) == ["0.png", "1.png", "2.png"]


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


def test_odd_photos_are_warned_of(photos):
    Image.open(photos / "0.png").save(photos / "3.jpg", quality=95)
    found = photo_reader.read_folder(photos)
    assert found.warnings(16) == ["0.png and 3.jpg are nearly the same picture"]
    small = found.warnings(64)
    assert "0.png is 20 x 24, smaller than the 64 pixels trained on" in small
    assert len(small) == 5
    for name in ("1.png", "2.png", "3.jpg"):
        (photos / name).unlink()
    assert photo_reader.read_folder(photos).warnings(16) == ["only 1 photo(s); three to ten work better"]


def test_bases_that_are_none(photos, tiny_base, tmp_path):
    def of(base: Path | str) -> str:
        (line,) = refused("--instance_dir", photos, "--base_model", base)
        return line

    assert "no model_index.json" in of(photos)
    assert "no such folder" in of("./nowhere")
    assert "expected a checkpoint (.safetensors or .ckpt)" in of(photos / "0.png")
    other = tmp_path / "xl"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    assert "a StableDiffusionXLPipeline, expected a Stable Diffusion 1 or 2" in of(other)
    (other / "model_index.json").write_text("{")
    assert "is damaged" in of(other)
    incomplete = tmp_path / "incomplete"
    shutil.copytree(tiny_base, incomplete)
    shutil.rmtree(incomplete / "vae")
    assert "incomplete, vae is missing" in of(incomplete)
    shutil.copytree(tiny_base / "vae", incomplete / "vae")
    (incomplete / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    assert "cannot be loaded" in of(incomplete)


def test_bases_that_load_but_are_none(tiny_base, tmp_path):
    def refusal(change) -> str:
        folder = tmp_path / change.__name__
        shutil.copytree(tiny_base, folder)
        change(folder)
        with pytest.raises(vf.VectorFitError) as caught:
            load(resolve(str(folder)))
        return str(caught.value)

    def edited(folder: Path, part: str, **values: object) -> None:
        (file,) = (folder / part).glob("*config.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    def no_vocabulary(folder: Path) -> None:
        (folder / "tokenizer" / "tokenizer.json").unlink()

    def cut_text_encoder(folder: Path) -> None:
        file = folder / "text_encoder" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])

    def predicts_samples(folder: Path) -> None:
        edited(folder, "scheduler", prediction_type="sample")

    assert "its tokenizer knows 2 of the text encoder's" in refusal(no_vocabulary)
    assert "cannot be loaded" in refusal(cut_text_encoder)
    assert "predicts 'sample'" in refusal(predicts_samples)


def test_stable_diffusion_out_of_reach_names_the_offline_ways(monkeypatch):
    monkeypatch.setattr(base_models, "_read", lambda base: (_ for _ in ()).throw(OSError("no connection")))
    with pytest.raises(vf.VectorFitError) as caught:
        load(resolve(SD14))
    message = str(caught.value)
    assert "no connection" in message
    assert "--base_model starter" in message
    assert f"hf download {SD14} --local-dir FOLDER" in message
    assert "HF_HOME" in message


def test_the_command_ends_with_status_2_and_no_traceback(tmp_path):
    (tmp_path / "dog").mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "train_dreambooth_vectorfit.py", "--instance_dir", "dog", "--learning_rate", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dog"]
    assert not list((tmp_path / "dog").iterdir())
