"""What ends a command: one clear line and a status, never a traceback for what the user can mend."""

import sys
from types import SimpleNamespace

import pytest

from vectorfit import VectorFitError
from vf_training.commands import exit_clearly, hide_loading_bars, status_of


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (VectorFitError("first\nsecond"), 2, "here: first\nhere: second\n"),
        (FileNotFoundError(2, "No such file", "/x"), 2, "here: /x: cannot be read or written (No such file)\n"),
        (OSError("odd"), 2, "here: odd\n"),
        (
            ModuleNotFoundError("no", name="peft.tuners"),
            2,
            "here: peft is not installed: pip install 'vectorfit[all]'\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; again\n"),
    ],
)
def test_what_the_user_can_mend_is_said_in_a_line_each(error, status, said, capsys):
    assert status_of(raising(error), prefix="here", interrupted="again") == status
    assert capsys.readouterr().err == said
    with pytest.raises(SystemExit) as ended:
        exit_clearly(raising(error))
    assert ended.value.code == status


@pytest.mark.parametrize("error", [ZeroDivisionError(), ModuleNotFoundError("no", name="vf_training.gone")])
def test_our_own_faults_keep_their_traceback(error):
    with pytest.raises(type(error)):
        status_of(raising(error))


def test_a_command_that_ends_well_says_nothing(capsys):
    assert status_of(lambda: None) == 0
    exit_clearly(lambda: None)
    assert capsys.readouterr().err == ""


def test_bars_of_loading_are_hidden_where_their_library_is_loaded(monkeypatch):
    hidden = []
    for library in ("diffusers", "transformers"):
        logging = SimpleNamespace(disable_progress_bar=lambda library=library: hidden.append(library))
        monkeypatch.setitem(sys.modules, library, SimpleNamespace())
        monkeypatch.setitem(sys.modules, f"{library}.utils.logging", logging)
    hide_loading_bars()
    assert hidden == ["diffusers", "transformers"]
    monkeypatch.delitem(sys.modules, "diffusers")
    hide_loading_bars()
    assert hidden == ["diffusers", "transformers", "transformers"]
