"""The run folder: the contract between what trains, what shows and what measures.

RUN/config.json           settings, what was inferred, and how the run ended
RUN/vectors.safetensors   the result
RUN/log.jsonl             one line a step
RUN/samples/              pictures made on the way, `step_000000.png` first
RUN/checkpoints/          `step_000100/vectors.safetensors`
"""

import json
from pathlib import Path
from typing import Any

from .errors import VectorFitError
from .vectors_file import PathLike, write_atomically


class RunFolder:
    """Paths and atomic writes of one run. Nothing is created before the first write."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    @property
    def vectors(self) -> Path:
        return self.path / "vectors.safetensors"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def samples(self, step: int) -> Path:
        folder = self.path / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"step_{step:06d}.png"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    def write_config(self, content: dict[str, Any]) -> None:
        write_atomically(self.config, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def read_config(self) -> dict[str, Any]:
        """The run's config.json. Raises VectorFitError when the folder holds none that can be read."""
        try:
            content: dict[str, Any] = json.loads(self.config.read_text(encoding="utf-8"))
        except OSError as error:
            raise VectorFitError(
                f"{self.path}: not a run folder, it has no readable config.json ({error.strerror})"
            ) from error
        except ValueError as error:
            raise VectorFitError(f"{self.config}: not valid JSON ({error})") from error
        return content

    def append_log(self, entry: dict[str, Any]) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
