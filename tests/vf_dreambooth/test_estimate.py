"""The dry run."""

import re

from train_dreambooth_vectorfit import main


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(arguments, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(arguments(tmp_path / "run", "--dry_run"))
    out = capsys.readouterr().out
    assert re.search(r"trainable    .*[\d,]+ of [\d,]+ parameters", out)
    assert re.search(r"steps        4 of \d+\.\d\d s", out)
    assert re.search(r"memory       \d+\.\d GiB", out)
    assert "nothing was trained or written" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog"]
