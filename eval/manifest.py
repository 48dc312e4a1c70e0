"""What was generated: an append-only list, one line a picture, that says what each one answers."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

NAME = "manifest.jsonl"
ROLES = ("subject", "class", "base_class")  # of the subject; of its class, by the personalised model and by the base


@dataclass(frozen=True)
class Entry:
    """One picture: its file (relative to the list), what it shows, what it answers, and the text that CLIP-T reads."""

    file: str
    subject: str
    cls: str
    role: str
    prompt_id: int
    group: str
    prompt: str
    text: str
    seed: int
    settings: str  # hash of base, subject file and sampling: pictures of other settings are not taken for these

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        return self.subject, self.role, self.prompt, self.seed, self.settings


def keep_only(folder: Path, wanted: Iterable[Entry]) -> None:
    """Leaves these entries only: what was generated for other prompts or settings is not scored with them."""
    lines = [json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in wanted]
    write_atomically(folder / NAME, "".join(lines).encode())


def append(folder: Path, entries: Iterable[Entry]) -> None:
    """Adds lines; each is written at once, so that several processes may add to one list."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that a killed process left; empty lines mean nothing
        for entry in entries:
            file.write(json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n")
            file.flush()


def read(folder: Path) -> list[Entry]:
    """The entries of a folder's list, the last of equal ones, in the order of subject, role, prompt and seed.

    Raises:
        VectorFitError: a line is damaged. A line that is not whole, of a process killed, is left out.
    """
    path, entries = folder / NAME, {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError) as error:
            if not line.endswith("}"):  # cut short; what it told of is made again
                continue
            raise VectorFitError(f"{path}, line {number}: not an entry of a manifest ({error}); delete it") from error
        entries[entry.key] = entry
    return sorted(entries.values(), key=lambda entry: (entry.subject, entry.role, entry.prompt_id, entry.seed))
