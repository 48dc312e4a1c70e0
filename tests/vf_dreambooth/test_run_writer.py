"""What the subject file says of itself to people and other tools."""

import base64
import shlex
from io import BytesIO

from PIL import Image

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.generate import build_parser
from vf_dreambooth.run_writer import what_next
from vf_training.runs import RunFolder


def test_it_has_a_title_a_trigger_and_a_picture(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--num_validation_images", 1))
    metadata = vf.read_metadata(tmp_path / "run" / "vectors.safetensors")
    expected = {"architecture": "stable-diffusion-v1/vectorfit", "resolution": "16x16", "prediction_type": "epsilon"}
    expected |= {"title": "sks dog", "trigger_phrase": "sks dog", "sai_model_spec": "1.0.1"}
    assert {name: metadata[f"modelspec.{name}"] for name in expected} == expected
    kind, _, data = metadata["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (16, 16)
    main(arguments(tmp_path / "unseen"))
    assert "modelspec.thumbnail" not in vf.read_metadata(tmp_path / "unseen" / "vectors.safetensors")


def test_a_row_of_a_grid_is_drawn_with_its_own_settings(arguments, tmp_path):
    flags = ("--num_validation_images", 2, "--max_train_steps", 1, "--validation_prompts", tmp_path / "rows.txt")
    sheets = []
    for lines in ("a dog\na dog --d 1\n", "a dog\na dog --s 1\n", "a dog\na dog\n"):
        (tmp_path / "rows.txt").write_text(lines)
        main(arguments(tmp_path / f"{len(sheets)}", *flags))
        sheets.append(Image.open(tmp_path / f"{len(sheets)}" / "samples" / "step_000000.png").convert("RGB"))
    plain = sheets.pop()
    half = (plain.height - 4) // 2  # two rows of the same height, and a gap
    first, second = (0, 0, plain.width, half), (0, half, *plain.size)
    for other in sheets:
        assert other.crop(first).tobytes() == plain.crop(first).tobytes()
        assert other.crop(second).tobytes() != plain.crop(second).tobytes()


def test_a_training_ends_with_its_newest_pictures_and_a_command_to_try(tmp_path):
    run = RunFolder(tmp_path / "my run")
    run.sample_grid(0).parent.mkdir(parents=True)
    run.write_config({"settings": {"instance_prompt": "a photo of sks dog"}})
    for step in (0, 50, 100):
        run.sample_grid(step).touch()
    shown, following = what_next(run)
    assert shown == f"samples      {run.sample_grid(100)}"
    command = shlex.split(following.removeprefix("next         vectorfit generate "))
    flags = build_parser().parse_args(command)
    assert (flags.vectors, flags.prompts, flags.compare) == ([run.path], ["a photo of sks dog in the snow"], True)
