"""What a user installs: the wheel, alone in a fresh environment."""

import os
import re
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

import vectorfit

ROOT = Path(__file__).parents[1]


def test_one_version_everywhere():
    texts = {
        name: (ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "app/README.md", "docs/install.md")
    }
    said = {
        name: set(re.findall(r"^version: (\S+)|vectorfit-([\d.]+)-py3", text, re.MULTILINE))
        for name, text in texts.items()
    }
    assert {"".join(found) for pairs in said.values() for found in pairs} == {vectorfit.__version__}
    assert all(said.values())
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == vectorfit.__version__


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
    """Distributions and everything they need here, by name. A name may ask for extras, as in `a[b]`."""
    found, seen, waiting = {}, set(), [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), ("", *wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = metadata.distribution(name)
        needs = map(Requirement, found[name].requires or ())
        waiting += [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in extras)]
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


def needs_of(extra):
    """The requirements of an extra, those of the extras that it names included, and the core's."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, needs = [*settings["optional-dependencies"][extra], *settings["dependencies"]], []
    while waiting:
        wanted = Requirement(waiting.pop())
        if wanted.name == "vectorfit":
            waiting += [need for name in wanted.extras for need in settings["optional-dependencies"][name]]
        else:
            needs.append(str(wanted))
    return needs


CALL = "import sys; sys.path[:0] = {paths!r}; sys.argv = ['vectorfit', *{words!r}]; import vf_command; vf_command.run()"
SHORT = "--base_model starter --max_train_steps 2 --num_class_images 1 --num_validation_images 0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "commands"),
    {
        "dreambooth": [
            f"train --instance_dir dog {SHORT}",
            "generate --vectors runs/dog --prompt sks --num 1 --num_inference_steps 2 --compare",
            "export runs/dog --to lora",
            "analyze runs/dog",
        ],
        "eval": ["eval selfcheck --protocol starter"],
        "app": ["app --help"],
        "tasks": ["tasks cola --tiny"],
    }.items(),
)
def test_each_extra_alone_is_enough_for_its_commands(installed, tmp_path, extra, commands):
    """With what the extra and the core require, and nothing else to be found."""
    paths = [str(installed), str(linked(needs_of(extra), tmp_path / "libraries"))]
    (tmp_path / "dog").symlink_to(ROOT / "examples" / "dog")
    venv.create(tmp_path / "env", with_pip=False)
    for line in commands:
        code = CALL.format(paths=paths, words=line.split())
        command = [tmp_path / "env" / "bin" / "python", "-I", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
    if extra == "app":
        assert "True" in python(
            tmp_path, f"import sys; sys.path[:0] = {paths!r}; from vf_app import server; print(True)"
        )


@pytest.mark.slow
def test_without_its_extra_a_command_says_which_is_missing(installed, tmp_path):
    core = linked(("torch", "safetensors", "numpy", "platformdirs"), tmp_path / "core")
    venv.create(tmp_path / "env", with_pip=False)
    code = CALL.format(paths=[str(installed), str(core)], words=["train", "--instance_dir", "dog"])
    command = [tmp_path / "env" / "bin" / "python", "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("vectorfit train: the extra dreambooth is not installed; pip install ")
    assert len(done.stderr.splitlines()) == 1
