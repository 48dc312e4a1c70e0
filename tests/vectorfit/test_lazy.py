"""Names of a package that are imported when they are first used."""

import subprocess
import sys

import pytest

import vectorfit as vf
from vectorfit import lazy
from vf_training import methods


@pytest.mark.parametrize("package", [vf, methods])
def test_every_public_name_is_there(package):
    for name in package.__all__:
        assert getattr(package, name).__doc__ is not None
    assert set(" ".join(package._NAMES.values()).split()) <= set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_a_name_is_imported_once(monkeypatch):
    get = lazy.attributes("vectorfit", {"roles": "ATTENTION role"})
    monkeypatch.delattr(vf, "role", raising=False)
    monkeypatch.delattr(vf, "ATTENTION", raising=False)
    assert get("ATTENTION") == "attention"
    assert vars(vf)["ATTENTION"] == "attention"
    monkeypatch.delattr(vf, "ATTENTION")


def test_functions_are_not_hidden_by_modules_of_their_names():
    """A package's attribute becomes the module of that name once that is imported, so no module may have one."""
    code = "import vectorfit.planning, vectorfit.injection, vectorfit.peft, vectorfit as vf"
    code += "; print(*(type(getattr(vf, n)).__name__ for n in vf.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "module" not in done.stdout.split()
