"""What a user installs: the wheel, alone in a fresh environment, and the README's commands."""

import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from vf_dreambooth.cli import build_parser
from vf_dreambooth.export import build_parser as build_export_parser
from vf_dreambooth.generate import build_parser as build_generate_parser

ROOT = Path(__file__).parents[1]


def commands(start: str) -> list[list[str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [shlex.split(line, comments=True) for line in re.findall(rf"^{re.escape(start)}.*$", text, re.MULTILINE)]


def test_the_readmes_training_commands_parse():
    found = commands("accelerate launch train_dreambooth_vectorfit.py")
    assert len(found) >= 2
    for command in found:
        assert build_parser("x").parse_args(command[3:]).instance_data_dir == "dog/"


def test_the_readmes_generation_commands_parse():
    found = commands("python -m vf_dreambooth.generate")
    assert found
    for command in found:
        assert build_generate_parser().parse_args(command[3:]).prompts


def test_the_readmes_export_commands_parse():
    found = commands("python -m vf_dreambooth.export")
    assert len(found) == 3
    for command in found:
        assert build_export_parser().parse_args(command[3:]).subject == Path("runs/dog")


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path):
    # The environment sees this one's installed libraries, but not the checkout.
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", site, wheel], check=True)
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    code = f"""
import sys
sys.path[:0] = [{str(site)!r}, {libraries!r}]
import vf_starter
from vf_dreambooth.base_models import load, resolve
load(resolve("starter"))
from vf_app import server
assert list(server.shipped().glob("*.safetensors"))
print(vf_starter.__file__)
"""
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
