"""The direction of imports, and the sizes that keep the code readable."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("vectorfit", "vectorfit/peft", "vectorfit/tasks", "vf_dreambooth", "app", "eval", "starter")
# A module of the folder -> what its import must not load.
FORBIDDEN = {
    "vectorfit": {
        "diffusers",
        "transformers",
        "accelerate",
        "peft",
        "matplotlib",
        "gradio",
        "datasets",
        "sklearn",
        "vf_dreambooth",
        "starter",
    },
    "app.server": {"starter", "vf_starter", "eval", "vf_eval", "train_dreambooth_vectorfit"},
    "eval.__main__": {"gradio", "starter", "vf_starter", "app", "vf_app"},
    "vf_dreambooth.generate": {"gradio", "starter", "vf_starter", "eval", "vf_eval", "app", "vf_app"},
}


# What each process imports, in this order: none of it may load what a later one's must not.
PROCESSES = (("vectorfit", "sqlite3"), ("vf_dreambooth.generate", "eval.__main__"), ("app.server",))
TELLING = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    print(module, *{name.split('.')[0] for name in sys.modules})
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The packages that importing a module loads, in processes of their own at the same time."""
    running = [
        subprocess.Popen([sys.executable, "-c", TELLING, *modules], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for modules in PROCESSES
    ]
    lines = [line.split() for process in running for line in process.communicate()[0].splitlines()]
    assert not any(process.returncode for process in running)
    return {module: set(packages) for module, *packages in lines}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_imports_only_point_downwards(loaded, module):
    assert not loaded[module] & FORBIDDEN[module]


def test_the_import_test_can_fail(loaded):
    assert "sqlite3" in loaded["sqlite3"]


def sources() -> list[Path]:
    files = sorted({path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")})
    return [*files, ROOT / "train_dreambooth_vectorfit.py"]


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


def test_functions_and_the_script_stay_short():
    files = sources()
    assert len(files) > 25
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long
    assert len((ROOT / "train_dreambooth_vectorfit.py").read_text().splitlines()) <= 250


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
