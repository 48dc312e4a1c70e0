"""The folder is a Space: its header and its requirements are those of the package."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"


def header() -> dict[str, str]:
    _, between, _ = (APP / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return {key: value.strip(' "') for key, _, value in (line.partition(":") for line in between.splitlines())}


def package() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_header_names_a_file_and_versions_that_the_package_takes():
    told, project = header(), package()
    assert (told["sdk"], told["title"]) == ("gradio", "VectorFit")
    assert (APP / told["app_file"]).is_file()
    wanted = {each.name: each.specifier for each in map(Requirement, project["optional-dependencies"]["app"])}
    assert told["sdk_version"] in wanted["gradio"]
    assert told["python_version"] in SpecifierSet(project["requires-python"])
    assert len(told["short_description"]) <= 60  # the hub refuses a longer one


def test_the_requirements_are_the_package_with_its_page():
    (line,) = (APP / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = Requirement(line)
    assert (wanted.name, wanted.extras) == (package()["name"], {"app"})
    assert "app" in package()["optional-dependencies"]
