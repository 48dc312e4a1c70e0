"""One folder for everything that is kept on disk, where the user or the system wants it."""

from pathlib import Path

import pytest

from vectorfit.cache_folder import cache_folder


@pytest.mark.parametrize(
    ("own", "system", "expected"),
    [
        ("/a", "/b", "/a/factors"),
        ("~/a", "/b", "HOME/a/factors"),
        (None, "/b", "/b/vectorfit/factors"),
        (None, None, "HOME/.cache/vectorfit/factors"),
        ("", "", "HOME/.cache/vectorfit/factors"),  # XDG: an empty variable counts as unset
        ("off", "/b", None),
    ],
)
def test_the_own_variable_comes_before_the_systems(monkeypatch, own, system, expected):
    for name, value in (("VECTORFIT_CACHE", own), ("XDG_CACHE_HOME", system)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder("factors") == (expected and Path(expected.replace("HOME", "/home/me")))
