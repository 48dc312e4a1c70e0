"""What a user installs: the wheel, alone in a fresh environment, and the README's commands."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built and unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    # What an earlier build has left in build/ would go into the wheel.
    (folder / "build.cfg").write_text(f"[build]\nbuild_base = {folder / 'build'}\n")
    environment = {**os.environ, "DIST_EXTRA_CONFIG": str(folder / "build.cfg")}
    subprocess.run(build, check=True, capture_output=True, env=environment)
    (wheel,) = (folder / "dist").glob("*.whl")
    site = folder / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", site, wheel], check=True)
    return site


def python(tmp_path, code):
    """A program's output in an environment that has no packages but those it puts on its path."""
    venv.create(tmp_path / "env", with_pip=False)
    command = [tmp_path / "env" / "bin" / "python", "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_with_the_libraries_of_all_extras(installed, tmp_path):
    libraries = str(Path(torch.__file__).parents[1])
    code = f"""
import sys
sys.path[:0] = [{str(installed)!r}, {libraries!r}]
import vf_starter
from vf_dreambooth.base_models import load, resolve
load(resolve("starter"))
from vf_starter import judge, subjects
assert len(subjects.photographs("dog", subjects.SUBJECTS["dog"])) == 5
judge.load()
import vf_tasks.__main__
from vf_tasks import recipe
assert recipe.names()
from vf_app import server
assert list(server.shipped().glob("*.safetensors"))
print(vf_starter.__file__)
"""
    assert str(installed) in python(tmp_path, code)


def required(names):
    """Distributions and everything they need here, extras apart, by name."""
    found, waiting = {}, list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        needs = map(Requirement, found[name].requires or ())
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def linked(names, folder):
    """A folder with these distributions and what they need, and nothing else."""
    folder.mkdir()
    for distribution in required(names).values():
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    return folder


def test_the_core_needs_four_libraries():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {Requirement(need).name for need in settings["dependencies"]} == {
        "torch",
        "safetensors",
        "numpy",
        "platformdirs",
    }
    extras = settings["optional-dependencies"]
    everything = {need for extra in ("dreambooth", "tasks", "eval", "app", "peft") for need in extras[extra]}
    assert all(extra in extras["all"][0] for extra in ("dreambooth", "tasks", "eval", "app", "peft"))
    assert {Requirement(need).name for need in everything} >= {"diffusers", "gradio", "datasets", "peft", "timm"}


@pytest.mark.slow
def test_the_wheel_alone_is_the_method(installed, tmp_path):
    """With torch, safetensors, numpy, platformdirs and what these need, and nothing else to be found."""
    core = linked(("torch", "safetensors", "numpy", "platformdirs"), tmp_path / "core")
    assert not (core / "transformers").exists()
    code = f"""
import sys
sys.path[:0] = [{str(installed)!r}, {str(core)!r}]
import importlib.util
for name in ("transformers", "diffusers", "peft", "accelerate", "matplotlib", "PIL", "tqdm"):
    assert importlib.util.find_spec(name) is None, name
import torch, vectorfit as vf
make = lambda: (torch.manual_seed(0), torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)))[1]
net = make()
vf.inject(net)
avf = vf.AdaptiveVectorFreezing(net, first_step=1, every=1, num_freezes=2, top_k=1)
optimizer = torch.optim.AdamW(vf.vector_parameters(net).values(), lr=0.1)
for step in (1, 2):
    net(torch.ones(1, 8)).square().sum().backward()
    avf.step(step)
    optimizer.step()
vf.save_vectors(net, "subject.safetensors", base_model="test")
vf.load_vectors(make(), "subject.safetensors")
from vf_training import methods
methods.load(make(), "subject.safetensors")
print(vf.__file__)
"""
    assert str(installed) in python(tmp_path, code)
