"""Factors on disk: the same ones, verified, and never a reason to fail."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from vectorfit import factor_cache
from vectorfit.svd import decompose


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VECTORFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(factor_cache, "SMALLEST", 16)
    return tmp_path / "cache" / "factors"


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def never(_):
    raise AssertionError("factorised again")


def test_the_second_time_is_read_and_the_same(cache, monkeypatch):
    weight = torch.randn(24, 40)
    first = factor_cache.factors(weight)
    assert same(first, decompose(weight))
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(factor_cache, "decompose", never)
    assert same(factor_cache.factors(weight), first)
    assert same(factor_cache.factors(weight.clone()), first)  # by content, not by identity
    with pytest.raises(AssertionError):
        factor_cache.factors(weight + 1)


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: data[:-400] + bytes(400)])
def test_a_damaged_entry_is_made_again(cache, damage):
    weight = torch.randn(24, 40)
    first = factor_cache.factors(weight)
    (entry,) = cache.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert same(factor_cache.factors(weight), first)
    assert same(factor_cache.factors(weight), first)


def test_another_weights_entry_is_not_taken(cache):
    one, other = torch.randn(24, 40), torch.randn(24, 40)
    factor_cache.factors(one)
    (entry,) = cache.iterdir()
    expected = factor_cache.factors(other)
    (second,) = set(cache.iterdir()) - {entry}
    second.write_bytes(entry.read_bytes())
    assert same(factor_cache.factors(other), expected)


def test_small_weights_and_a_cache_that_is_off_or_unwritable(cache, monkeypatch, tmp_path):
    factor_cache.factors(torch.randn(8, 40))
    monkeypatch.setenv("VECTORFIT_CACHE", "off")
    factor_cache.factors(torch.randn(24, 40))
    assert not cache.exists()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VECTORFIT_CACHE", str(tmp_path / "file"))
    factor_cache.factors(torch.randn(24, 40))


def factorise(seed: int, folder: Path) -> None:
    os.environ["VECTORFIT_CACHE"] = str(folder)  # a fork server has the environment of when it was started
    factor_cache.SMALLEST = 16
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    factor_cache.factors(torch.randn(24, 40))


def test_processes_share_it(cache):
    context = multiprocessing.get_context("forkserver")
    children = [context.Process(target=factorise, args=(index % 2, cache.parent)) for index in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert len(list(cache.iterdir())) == 2
    torch.manual_seed(1)
    weight = torch.randn(24, 40)
    assert same(factor_cache.factors(weight), decompose(weight))


@pytest.mark.gpu
def test_a_gpu_factorises_what_is_in_main_memory():
    weight = torch.randn(24, 40)
    U, sigma, Vh = factor_cache.factors(weight)
    assert U.device.type == sigma.device.type == Vh.device.type == "cpu"
    torch.testing.assert_close((U * sigma) @ Vh, weight, atol=1e-5, rtol=1e-5)
