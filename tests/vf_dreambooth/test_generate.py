"""The command line of the command that generates images."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth import generate


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    flags = [
        "--vectors",
        str(tmp_path),
        "--prompt",
        "x",
        "--num",
        "0",
        "--strength",
        "nan",
        "--num_inference_steps",
        "0",
    ]
    with pytest.raises(VectorFitError) as caught:
        generate.main(flags)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "--num",
        "--strength",
        "--num_inference_steps",
    ]


def test_an_unknown_flag_is_told_with_the_nearest(tmp_path):
    with pytest.raises(VectorFitError, match=r"unknown argument --strenght; did you mean --strength\?"):
        generate.main(["--vectors", str(tmp_path), "--prompt", "x", "--strenght", "1"])
