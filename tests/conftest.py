"""What every test may rely on: few threads, known randomness, gpu tests skipped where there is none."""

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_factors_outside_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTORFIT_CACHE", "off")
