"""A benchmark's page: its title, the command that repeats it, a table, and notes."""

from pathlib import Path


def table_lines(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "--|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_table(path: Path, title: str, command: str, header: list[str], rows: list[list[str]], notes: str) -> None:
    """Writes the page. `notes` is Markdown."""
    parts = [f"# {title}", f"`{command}`", table_lines(header, rows), notes]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
