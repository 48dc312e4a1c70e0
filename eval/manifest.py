"""The manifest: an append-only list of the generated images, one line per image."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

NAME = "manifest.jsonl"
# What an image shows: the subject; its class by the personalised model; its class by the base.
ROLES = ("subject", "class", "base_class")


@dataclass(frozen=True)
class Entry:
    """One image: its file (relative to the manifest), its role, its prompt, and the text that CLIP-T reads."""

    file: str
    subject: str
    cls: str
    role: str
    prompt_id: int
    group: str
    prompt: str
    text: str
    seed: int
    settings: str  # hash of base, subject file and sampling; images of other settings do not match

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        return self.subject, self.role, self.prompt, self.seed, self.settings


def keep_only(folder: Path, wanted: Iterable[Entry]) -> None:
    """Keeps only these entries, so that images of other prompts or settings are not scored with them."""
    lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in wanted]
    write_atomically(folder / NAME, "".join(lines).encode())


def append(folder: Path, entries: Iterable[Entry]) -> None:
    """Adds entries. Each is written at once, so that several processes may add to one manifest."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a partial line of a killed process; empty lines are skipped
        for entry in entries:
            file.write(json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n")
            file.flush()


def read(folder: Path) -> list[Entry]:
    """The entries of a folder's manifest, sorted by subject, role, prompt and seed. Of equal entries the last counts.

    A partial line, which a killed process leaves, is skipped.

    Raises:
        VectorFitError: a line is damaged.
    """
    path, entries = folder / NAME, {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError) as error:
            if not line.endswith("}"):  # a partial line; its image is generated again
                continue
            raise VectorFitError(f"{path}, line {number}: not an entry of a manifest ({error}); delete it") from error
        entries[entry.key] = entry
    return sorted(entries.values(), key=lambda entry: (entry.subject, entry.role, entry.prompt_id, entry.seed))
