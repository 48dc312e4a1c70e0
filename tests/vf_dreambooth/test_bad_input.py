"""Bad input: everything that is wrong in one message, before anything is loaded or written."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_command_ends_with_status_2_and_no_traceback(tmp_path):
    (tmp_path / "dog").mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "train_dreambooth_vectorfit.py", "--instance_dir", "dog", "--learning_rate", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dog"]
    assert not list((tmp_path / "dog").iterdir())
