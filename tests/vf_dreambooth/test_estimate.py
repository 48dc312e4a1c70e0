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
    assert "estimated    on a GPU, from shapes" in out
    for name in ("these settings", "--memory 12", "--memory 8"):  # 24 and 16 change nothing in batches of 2
        assert re.search(rf"{name}: +\d+\.\d GiB to train, \d+\.\d GiB to draw", out)
    assert "--memory 16" not in out
    assert "nothing was trained or written" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog"]
