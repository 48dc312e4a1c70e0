"""What the documentation's site needs beyond Markdown: pages from outside docs/, links to them, equations as MathML.

MkDocs calls these functions (mkdocs.yml names this file). The pages stay as they are read in the repository.
"""

import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
# Pages and pictures outside docs/ that its pages link to. They keep their paths.
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "app/README.md", "starter/weights/README.md", "benchmarks/**/*.md")
PICTURES = ("benchmarks/**/*.png", "benchmarks/**/*.jpg")
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)
ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def on_config(config: Any) -> Any:
    """Adds the pages of docs/ that the navigation does not name to its end, so that a new page is never lost."""
    listed = set(re.findall(r"[\w.-]+\.md", str(config["nav"])))
    more = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in listed)
    if more:
        config["nav"].append({"More": more})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and pictures from outside docs/."""
    for pattern in (*OUTSIDE, *PICTURES):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            listed = InclusionLevel.NOT_IN_NAV  # no warning if the navigation leaves it out
            files.append(File.generated(config, name, abs_src_path=str(path), inclusion=listed))
    return files


def repository_path(page: str, target: str) -> str:
    """The path in the repository of what a page of the site links to."""
    source = page if (ROOT / page).exists() else f"docs/{page}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def site_path(path: str) -> str:
    """Where the site has what lies at a path in the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def relinked(page: str, known: Callable[[str], bool]) -> Callable[[re.Match[str]], str]:
    """Rewrites one link of a page. What the repository has and the site has not becomes plain text."""

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = repository_path(page, target)
        if known(site_path(path)):
            relative = os.path.relpath(site_path(path), posixpath.dirname(page) or ".")
            return f"{match['picture']}[{match['text']}]({Path(relative).as_posix()}{match['anchor'] or ''})"
        return match["text"] if (ROOT / path).exists() else match[0]

    return link


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as the site has them."""
    link = relinked(page.file.src_uri, lambda name: files.get_file_from_path(name) is not None)
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)  # code is left alone
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def equation(match: re.Match[str]) -> str:
    """One equation as MathML, which browsers draw themselves."""
    formula = match[2] if match[2] is not None else match[3]
    for entity, character in ENTITIES.items():
        formula = formula.replace(entity, character)
    return convert(formula.strip(), display="inline" if match[2] is not None else "block")


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Equations as MathML."""
    return EQUATION.sub(equation, html)
