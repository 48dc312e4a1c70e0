"""Deltas in few bytes."""

import math
import zlib

import pytest
import torch

import vectorfit as vf
from vectorfit import coding


def vectors(count: int = 12, size: int = 300) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {f"v{n}": torch.randn(size + n, generator=generator) * 10.0 ** (n % 4 - 2) for n in range(count)}
    return made | {"zero": torch.zeros(7), "one": torch.ones(1), "outlier": torch.cat([torch.randn(50), torch.ones(1)])}


@pytest.mark.parametrize(("most_bytes", "error"), [(10**6, 0.01), (3000, 0.01), (1500, 0.2), (800, 1.0)])
def test_no_number_is_off_by_more_than_half_its_scale(most_bytes, error):
    original = vectors()
    coded = coding.encode(original, {"text": "café"}, most_bytes)
    assert len(coded.data) <= most_bytes
    decoded, texts = coding.decode(coded.data)
    assert texts == {"text": "café"}
    assert decoded.keys() == original.keys()
    total = lost = 0.0
    for name, vector in original.items():
        assert torch.equal(decoded[name], coded.vectors[name])  # what the writer says is what the reader gets
        bound = coded.scales[name] / 2
        assert (decoded[name] - vector).abs().max() <= bound * (1 + 1e-5) + 1e-30
        total, lost = total + vector.square().sum(), lost + (decoded[name] - vector).square().sum()
    assert coded.error == pytest.approx(math.sqrt(lost / total), rel=1e-3)
    assert coded.error < error


def test_eight_bits_have_a_scale_for_each_vector():
    original = vectors()
    coded = coding.encode(original, {}, 10**6)
    for name, vector in original.items():
        assert coded.scales[name] == pytest.approx(float(vector.abs().max()) / 127)


def test_the_code_is_near_the_entropy():
    values = {"v": torch.randn(100_000, generator=torch.Generator().manual_seed(0))}
    for step in (2.0, 1.0, 0.1):
        coded = coding._coded(values, {}, step)
        numbers = (coded.vectors["v"] / coded.scales["v"]).round()
        share = torch.bincount((numbers - numbers.min()).long()).float() / len(numbers)
        entropy = -(share[share > 0] * share[share > 0].log2()).sum().item()
        assert entropy <= 8 * len(coded.data) / len(numbers) + 1e-3 < entropy + 0.12


def test_a_subject_of_stable_diffusion_fits_into_100_kilobytes():
    """As many vectors and numbers as SD v1.4's; the texts are as long as its sketch and probe."""
    generator = torch.Generator().manual_seed(0)
    sizes = [320, 640, 768, 1280, 1280, 2560] * 64
    sizes += [438_656 - sum(sizes)]
    heavy = {f"unet.down_blocks.{n}.attn.to_q.sigma": torch.randn(s, generator=generator) for n, s in enumerate(sizes)}
    texts = {"sketch": str(torch.rand(512).tolist()), "probe": str(torch.rand(768).tolist())}
    assert sum(map(len, heavy.values())) == 438_656
    coded = coding.encode(heavy, texts, 95_000)
    assert len(coded.data) <= 95_000
    assert 1.3 < coded.bits < 1.6
    assert coded.error < 0.5  # what so few bits allow: 2^-1.5 is the bound for Gaussian numbers (rate and distortion)
    whole = coding.encode(heavy, texts, 10**6)
    assert whole.error < 0.01
    assert 6 < whole.bits < 8


def test_too_few_bytes_are_told():
    with pytest.raises(vf.VectorFitError, match=r"vectors take .* bytes at least, got 50"):
        coding.encode(vectors(), {}, 50)


@pytest.mark.parametrize("cut", [0, 3, 20, -5])
def test_damaged_data_is_refused(cut):
    data = coding.encode(vectors(), {}, 10**6).data
    with pytest.raises((ValueError, LookupError, zlib.error, RuntimeError, coding.struct.error)):
        coding.decode(data[:cut] if cut >= 0 else data[:-200])
