"""The documentation: links lead somewhere, quoted messages exist, equations are drawn, the README stays short."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import site

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/**/*.md", "app/*.md", "starter/weights/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# Sentences of version 0.1.0 that a reader had to read twice. They were said anew and must not come back.
SAID_ANEW = (
    "are everybody's who reaches the page",
    "what a closed page has asked for",
    "leaves the drawing free",
    "without which no switch can do",
    "one that is done is told",
    "that does not make it what it is",
    "where accelerate starts but one",
    "tell differences of two points badly",
    "what AVF is held against",
    "it is heeded where it is that of a base",
    "quantised ones are spoken of",
    "of the very size",
    "the oldest go",
    "Mistakes are said all at once",
    "say nothing of published figures",
    "no difference that could be told",
    "everywhere but to its larger size",
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Messages of other programs, which troubleshooting quotes too.
FOREIGN = {
    "operator torchvision::nms does not exist",
    "import torchvision",
    "vectorfit: command not found",
    "No module named eval",
}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    headings += re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page):
    assert not broken_links(page)


def test_the_test_of_links_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](page.md#one) [b](page.md#two) [c](gone.md) [d](https://example.org) `[e](gone.md)`\n")
    assert broken_links(page) == ["page.md#two", "gone.md"]


def test_what_was_said_anew_does_not_come_back():
    files = [path for pattern in ("*.md", "*.py", "*/**/*.md", "*/**/*.py") for path in ROOT.glob(pattern)]
    ours = [
        path for path in files if not {".venv", "build"} & set(path.relative_to(ROOT).parts) and path != Path(__file__)
    ]
    assert len(ours) > 300
    texts = {path: " ".join(path.read_text(encoding="utf-8").split()) for path in ours}
    assert not [(path.name, words) for path, text in texts.items() for words in SAID_ANEW if words in text]


def test_the_readme_is_a_screen_or_two():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_messages_that_troubleshooting_quotes_are_ours():
    sources = [
        *ROOT.glob("*.py"),
        *(
            path
            for name in ("vectorfit", "vf_training", "vf_dreambooth", "app")
            for path in (ROOT / name).rglob("*.py")
        ),
    ]
    said = " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in sources)
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \| ", text, re.MULTILINE)
    quoted = {message for row in rows for message in re.findall(r"`([^`]+)`", row)} - FOREIGN
    parts = {part.strip() for message in quoted for part in message.split("...")} - {""}
    assert len(parts) > 15
    assert not {part for part in parts if part not in said}


def page_of(markdown: str) -> str:
    """A page of docs/ as the site has its Markdown."""
    known = {"gpu.md", "index.md", "benchmarks/prior.md"}
    return site.LINK.sub(site.relinked("method.md", known.__contains__), markdown)


@pytest.mark.parametrize(
    ("link", "seen"),
    [
        ("[a](gpu.md#speed)", "[a](gpu.md#speed)"),
        ("[a](../benchmarks/prior.md)", "[a](benchmarks/prior.md)"),
        ("[a](../README.md)", "[a](index.md)"),
        ("[a](../benchmarks/prior.py)", "a"),  # the repository has it, the site has not
        ("[a](../benchmarks/gone.md)", "[a](../benchmarks/gone.md)"),  # MkDocs warns
        ("[a](https://example.org)", "[a](https://example.org)"),
    ],
)
def test_links_out_of_docs(link, seen):
    assert page_of(link) == seen


def test_a_page_that_the_navigation_does_not_name_comes_at_its_end():
    nav = [{"VectorFit": "index.md"}, {"Use": [{"GPU": "gpu.md"}]}]
    named = site.on_config({"nav": nav})["nav"]
    assert named[:2] == nav[:2]
    assert {"method.md", "tasks.md"} <= set(named[2]["More"])
    assert not {"index.md", "gpu.md"} & set(named[2]["More"])


def test_equations_are_mathml():
    html = site.on_page_content(r'<div class="arithmatex">\[a &lt; b_0\]</div>', None, None, None)
    assert html.startswith("<math")
    assert "<msub>" in html
    assert "arithmatex" not in html


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder
    shutil.rmtree(folder)


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(built):
    pages = list(built.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=\"?(?:https?:)?//", re.IGNORECASE)
    assert not {page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))}
    assert "<math" in (built / "method.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["troubleshooting.html", "benchmarks/tasks_table.html"])
def test_pages_of_docs_and_of_benchmarks_are_in_the_site(built, page):
    assert (built / page).exists()
