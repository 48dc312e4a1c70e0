"""The direction of imports, and the sizes that keep the code readable."""

import ast
import itertools
import re
import statistics
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("vectorfit", "vectorfit/peft", "vf_training", "vf_training/methods"),
    *("vf_dreambooth", "vf_dreambooth/families", "vf_dreambooth/settings", "vf_tasks", "app", "eval", "starter"),
)
WITH_TESTS_BY_NAME = FOLDERS[:8]
OPTIONAL = {"accelerate", "datasets", "diffusers", "gradio", "matplotlib", "peft", "PIL", "sklearn", "transformers"}
SCRIPT, COMMAND, STARTER = "train_dreambooth_vectorfit", "vf_command", {"starter", "vf_starter"}
EVALUATOR, PAGE = {"eval", "vf_eval"}, {"app", "vf_app"}
TOP = EVALUATOR | PAGE | STARTER | {SCRIPT, COMMAND}
# What is imported, every module of a folder but those after "-" -> what that must not load.
# vectorfit <- vf_training <- {vf_dreambooth, vf_tasks} <- {script, evaluator, page}; the command loads what it calls.
FORBIDDEN = {
    "vectorfit - peft transformers": OPTIONAL | {"vf_training", "vf_dreambooth", "vf_tasks"} | TOP,
    "vf_training": (OPTIONAL - {"matplotlib", "PIL"}) | {"vf_dreambooth", "vf_tasks"} | TOP,  # matplotlib loads PIL
    "vf_dreambooth": {"vf_tasks", "gradio", "datasets"} | TOP,
    "vf_tasks": {"vf_dreambooth", "diffusers", "gradio"} | TOP,
    SCRIPT: {"vf_tasks", "gradio"} | (TOP - {SCRIPT}),
    COMMAND: OPTIONAL | {"torch", "vf_dreambooth", "vf_tasks"} | (TOP - {COMMAND}),
    "eval": {"gradio"} | (TOP - EVALUATOR),
    "app": TOP - PAGE - {"vf_app"},
}
# What one process imports, in this order: nothing may load what a later one must not.
PROCESSES = (
    ("vectorfit - peft transformers", "vf_training", "vf_dreambooth", SCRIPT),
    ("vf_tasks", "eval"),
    ("app",),
    (COMMAND,),
)
CODE = """
import importlib, pkgutil, sys

def load(name, left_out):
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        if module.name not in ("__main__", *left_out) and (name, module.name) != ("app", "app"):
            load(f"{name}.{module.name}", left_out)

for folder in sys.argv[1:]:
    name, _, left_out = folder.partition(" - ")
    load(name, left_out.split())
    print(*{module.split(".")[0] for module in sys.modules})
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The packages that importing each folder's modules loads, in three processes, two at a time."""

    def of(folders: tuple[str, ...]) -> list[set[str]]:
        done = subprocess.run([sys.executable, "-c", CODE, *folders], cwd=ROOT, capture_output=True, text=True)
        assert not done.returncode, f"{folders}: {done.stderr}"
        return [set(line.split()) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(2) as pool:
        packages = [loaded for process in pool.map(of, PROCESSES) for loaded in process]
    return dict(zip(itertools.chain(*PROCESSES), packages, strict=True))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_only_point_downwards(loaded, folder):
    assert not loaded[folder] & FORBIDDEN[folder]


def test_the_import_test_can_fail(loaded):
    assert {"vectorfit", "torch", "safetensors"} <= loaded["vectorfit - peft transformers"]
    assert {"vectorfit", "vf_training", "diffusers"} <= loaded["vf_dreambooth"]
    assert {"vectorfit", "vf_training", "transformers"} <= loaded["vf_tasks"]
    assert "gradio" in loaded["app"]


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        *(("vectorfit/new.py", f"import {name}") for name in ("peft", "matplotlib.figure", "vf_training.runs")),
        ("vectorfit/peft/new.py", "from vf_training import methods"),
        ("vf_training/methods/new.py", "from vf_dreambooth.config import TrainConfig"),
        ("vf_dreambooth/new.py", "from vf_tasks.recipe import read"),
        ("vf_tasks/new.py", "from vf_dreambooth import pipeline"),
        ("eval/new.py", "import app.server"),
        ("app/new.py", "from eval import scoring"),
        ("vf_dreambooth/new.py", "import vf_command"),
    ],
)
def test_the_linter_refuses_imports_that_point_upwards(file, statement):
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", str(ROOT / file), "-"]
    done = subprocess.run(command, cwd=ROOT, input=statement + "\n", capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "TID251" in done.stdout


def test_no_folder_is_exempted_from_the_bans():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "per-file-ignores" not in settings["tool"]["ruff"]["lint"]
    exempted = {p for p in sources() if "TID251" in p.read_text(encoding="utf-8")}
    assert exempted == {ROOT / "vectorfit" / "transformers.py"}


def sources() -> list[Path]:
    files = sorted({path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")})
    return [*files, ROOT / f"{SCRIPT}.py", ROOT / f"{COMMAND}.py"]


def imported_siblings(path: Path, package: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package + "."):
            found.add(node.module.removeprefix(package + "."))
    return found


@pytest.mark.parametrize("package", FOLDERS)
def test_no_circle_of_imports(package):
    folder = ROOT / package
    modules = {p.stem: imported_siblings(p, package) for p in folder.glob("*.py") if p.stem != "__init__"}
    while modules:
        leaves = {name for name, needs in modules.items() if not needs & modules.keys()}
        assert leaves, f"a circle among {sorted(modules)}"
        modules = {name: needs for name, needs in modules.items() if name not in leaves}


def test_functions_modules_and_the_script_stay_short():
    files = sources()
    assert len(files) > 25
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert not [function for function, length in lengths.items() if length > 60]
    assert statistics.median(lengths.values()) <= 8
    assert not [path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert len((ROOT / "train_dreambooth_vectorfit.py").read_text().splitlines()) <= 250


@pytest.mark.parametrize("folder", WITH_TESTS_BY_NAME)
def test_every_module_has_a_test_file_of_its_name(folder):
    modules = [path for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("__")]
    assert modules
    assert not [path.name for path in modules if not (ROOT / "tests" / folder / f"test_{path.name}").exists()]


def test_no_dumping_grounds():
    assert not {p.name for p in sources()} & {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}


@pytest.mark.parametrize("page", ["reliability.md", "method.md"])
def test_the_tests_that_a_page_names_exist(page):
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    written = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) > 20
    assert not named - written
