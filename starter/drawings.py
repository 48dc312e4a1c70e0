"""The drawings of the world's things: fetched from open icon sets, rendered, and divided into training and held-out.

`python -m starter.drawings` needs npm (it downloads seven icon sets as packages) and the package resvg-py. It is
run by whoever trains the starter, never by a user. The held-out drawings come along as one sheet, `held_out.webp`, so
that the subjects, the measurements and the tests need neither.
"""

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .layout import WORK

# npm package -> version; licences and authors are in NOTICE
ICON_SETS = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "fxemoji": "1.2.2",
    "emojione": "1.2.3",
}
HERE = Path(__file__).parent
SIDE = 144  # pixels of a drawing's longer side
COLUMNS = 20
TRAINING, HELD_OUT = WORK / "drawings", HERE / "held_out"  # each a sheet (.webp) and the list of what is on it (.txt)
MANY = 9  # drawings: a noun with so many has two held out, others one
STYLE_HELD_OUT_EVERY = 5  # every fifth noun has one whole icon set held out


@dataclass(frozen=True, order=True)
class Drawing:
    """One drawing: the noun it shows, the icon set (its style) and its name there."""

    noun: str
    style: str
    name: str

    def __str__(self) -> str:
        return f"{self.noun} {self.style} {self.name}"


@cache
def icon_names() -> dict[str, tuple[str, ...]]:
    """Noun -> the names under which the icon sets draw it, in the order of `nouns.txt`."""
    lines = [line for line in (HERE / "nouns.txt").read_text().splitlines() if not line.startswith("#")]
    return {noun: tuple(names.split()) for noun, names in (line.split(": ") for line in lines)}


def fetch() -> dict[str, dict]:
    """Icon set -> its JSON of SVG bodies, downloaded through npm into the work folder once."""
    folder = WORK / "icons"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for style, version in ICON_SETS.items():
        archive = folder / f"iconify-json-{style}-{version}.tgz"
        if not archive.exists():
            if shutil.which("npm") is None:
                raise RuntimeError(f"starter.drawings: npm is not installed, and {archive.name} is not in {folder}")
            subprocess.run(["npm", "pack", "--silent", f"@iconify-json/{style}@{version}"], cwd=folder, check=True)
        with tarfile.open(archive) as tar:
            found[style] = json.load(tar.extractfile("package/icons.json"))
    return found


def listed(sets: dict[str, dict]) -> list[Drawing]:
    """Every drawing of every noun, ordered by noun, style and name; an alias counts as the drawing it stands for."""
    found = []
    for noun, names in icon_names().items():
        for style, content in sets.items():
            aliases = content.get("aliases", {})
            parents = {aliases[name]["parent"] if name in aliases else name for name in names}
            found += [Drawing(noun, style, name) for name in sorted(parents & content["icons"].keys())]
    return found


def divide(drawings: list[Drawing]) -> tuple[list[Drawing], list[Drawing]]:
    """Training and held-out drawings: every fifth noun loses one whole style, every other noun one or two drawings.

    The choice depends on the list alone.
    """
    kept, held_out = [], []
    for index, noun in enumerate(icon_names()):
        mine = [drawing for drawing in drawings if drawing.noun == noun]
        rng = np.random.default_rng((7, index))
        if index % STYLE_HELD_OUT_EVERY == 0:
            style = list(ICON_SETS)[(index // STYLE_HELD_OUT_EVERY) % len(ICON_SETS)]
            chosen = {drawing for drawing in mine if drawing.style == style}
        else:
            chosen = set()
        if not chosen:
            count = 2 if len(mine) >= MANY else 1
            chosen = {mine[i] for i in rng.permutation(len(mine))[:count]}
        kept += [drawing for drawing in mine if drawing not in chosen]
        held_out += sorted(chosen)
    return kept, held_out


def render(drawing: Drawing, sets: dict[str, dict]) -> Image.Image:
    """An RGBA picture, tightly cropped, its longer side `SIDE` pixels."""
    import resvg_py

    content = sets[drawing.style]
    icon = content["icons"][drawing.name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", content.get("width", 16))
    height = icon.get("height", content.get("height", 16))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="384" height="384">{icon["body"]}</svg>'
    )
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    box = picture.getchannel("A").point(lambda value: 255 * (value > 8)).getbbox()
    picture = picture.crop(box)
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write_sheet(path: Path, pictures: dict[Drawing, Image.Image], method: int) -> None:
    """Pictures in the middle of equal squares, `COLUMNS` a row, as one WebP; and their names, a line each."""
    sheet = Image.new("RGBA", (COLUMNS * SIDE, -(-len(pictures) // COLUMNS) * SIDE))
    for index, shown in enumerate(pictures.values()):
        left, top = (index % COLUMNS * SIDE, index // COLUMNS * SIDE)
        sheet.paste(shown, (left + (SIDE - shown.width) // 2, top + (SIDE - shown.height) // 2))
    sheet.save(path.with_suffix(".webp"), quality=90, alpha_quality=95, method=method)
    path.with_suffix(".txt").write_text("".join(f"{drawing}\n" for drawing in pictures))


def _read_sheet(path: Path) -> dict[Drawing, Image.Image]:
    sheet = Image.open(path.with_suffix(".webp")).convert("RGBA")
    found = {}
    for index, line in enumerate(path.with_suffix(".txt").read_text().splitlines()):
        left, top = index % COLUMNS * SIDE, index // COLUMNS * SIDE
        square = sheet.crop((left, top, left + SIDE, top + SIDE))
        found[Drawing(*line.split(" "))] = square.crop(square.getchannel("A").getbbox())
    return found


@cache
def training() -> dict[Drawing, Image.Image]:
    """The training drawings, from the work folder; RuntimeError where they have not been rendered."""
    if not TRAINING.with_suffix(".webp").exists():
        raise RuntimeError(f"{TRAINING}.webp is missing; render it with `python -m starter.drawings`")
    return _read_sheet(TRAINING)


@cache
def held_out() -> dict[Drawing, Image.Image]:
    """The drawings that no training sees, from the sheet beside this file."""
    return _read_sheet(HELD_OUT)


def picture(drawing: Drawing) -> Image.Image:
    """One drawing as a tightly cropped RGBA picture. Raises KeyError for a drawing that there is not."""
    return held_out()[drawing] if drawing in held_out() else training()[drawing]


def main() -> None:
    sets = fetch()
    kept, held = divide(listed(sets))
    # Small enough to be carried to a machine with an accelerator: 2,226 raw squares are 185 MB.
    _write_sheet(TRAINING, {drawing: render(drawing, sets) for drawing in kept}, method=4)
    _write_sheet(HELD_OUT, {drawing: render(drawing, sets) for drawing in held}, method=6)
    print(f"{len(icon_names())} nouns, {len(kept)} drawings for training, {len(held)} held out")


if __name__ == "__main__":
    main()
