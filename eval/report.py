"""A report in one HTML file: tables with intervals, and the images. Its form is in report.html, which Jinja2 fills."""

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import jinja2

from vectorfit.atomic import write_atomically
from vf_dreambooth.images import square
from vf_dreambooth.photos import open_photo

from .collection import UNKNOWN_SEED
from .comparison import KINDS, compare, require_alike
from .intervals import PERCENT, estimate

THUMBNAIL = 128  # pixels: the starter's pictures as they are
SCHEMA = "vectorfit-report/1"  # of the JSON and the CSV
EXTREMES = 6  # best and worst cells shown
NOTHING = "–"
# All text is escaped: names and prompts are other people's.
PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Text:
    """A cell of a table: what it says, and an addition in small letters."""

    main: str
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table. Where `folded` is given, it is shown only when one asks for it, by that line."""

    header: Sequence[str]
    rows: Sequence[Sequence[Text]]
    folded: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as base64 of a JPEG, "" where there is none, and the lines below it."""

    data: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Strip:
    """A row of pictures."""

    title: str
    pictures: Sequence[Picture]


def thumbnail(path: Path) -> str:
    """An image file as base64 of a small JPEG."""
    data = BytesIO()
    square(open_photo(path), THUMBNAIL).save(data, format="JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode()


def _texts(cells: Sequence[str | Text]) -> list[Text]:
    return [Text(cell) if isinstance(cell, str) else cell for cell in cells]


def _score(score: Mapping[str, Any] | None) -> Text:
    if score is None:
        return Text(NOTHING)
    share = f", {score['percent_of_real']:.1f} % of real" if "percent_of_real" in score else ""
    return Text(f"{score['mean']:.3f}", f"{score['low']:.3f} to {score['high']:.3f}{share}")


def _amount(value: Any, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _labels(results: Sequence[Result]) -> list[str]:
    return [results[0]["labels"][kind] for kind in KINDS]


def _frame(results: Sequence[Result]) -> list[list[Text]]:
    """The rows that scores are read between: the photos themselves, and the base's images of the class."""
    names = {"photos": "the photos themselves", "base": "the base, asked for the class"}
    rows = []
    for key, title in names.items():
        scores = next((result["overall"][key] for result in results if key in result["overall"]), None)
        if scores:
            rows.append(_texts([title, *(_amount(scores[kind], ".3f") for kind in KINDS), *[NOTHING] * 4]))
    return rows


def _summary(results: Sequence[Result]) -> Table:
    rows = _frame(results)
    for result in results:
        facts, scores = result["facts"], result["overall"]
        memory = facts.get("memory")
        rows.append(
            _texts(
                [
                    result["method"],
                    *(_score(scores.get(kind)) for kind in KINDS),
                    _amount(facts.get("parameters"), ",.0f"),
                    _amount(facts.get("bytes"), ",.0f"),
                    _amount(facts.get("seconds"), ".0f"),
                    _amount(None if memory is None else memory / 2**30, ".1f"),
                ]
            )
        )
    return Table(["method", *_labels(results), "parameters", "bytes", "seconds", "peak GiB"], rows)


def _overfitting(results: Sequence[Result]) -> Table:
    names = {"pres": "PRES ↓", "drift": "drift ↓", "diversity": "diversity ↑", "nearest_reference": "nearest photo"}
    rows = [_texts([r["method"], *(_amount(r["overall"].get(name), ".3f") for name in names)]) for r in results]
    return Table(["method", *names.values()], rows)


def _by_group(results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        groups = sorted({image["group"] for s in result["subjects"].values() for image in s["images"]} - {""})
        for group in groups:
            cells: list[str | Text] = [f"{result['method']}, {group}"]
            for kind in KINDS:
                values = {
                    name: [i[kind] for i in s["images"] if i["group"] == group and i[kind] is not None]
                    for name, s in result["subjects"].items()
                }
                values = {name: scores for name, scores in values.items() if scores}
                cells.append(_score(vars(estimate(values))) if values else NOTHING)
            rows.append(_texts(cells))
    return Table(["method, group", *_labels(results)], rows)


def _by_subject(results: Sequence[Result]) -> Table:
    rows = []
    for name in sorted({name for result in results for name in result["subjects"]}):
        for result in results:
            subject = result["subjects"].get(name)
            if subject is not None:
                scores = [_amount(subject[kind], ".3f") for kind in KINDS]
                real = _amount(subject["real"]["dino"]["without_self"], ".3f")
                rows.append(_texts([f"{name}, {result['method']}", *scores, real, str(subject["n"])]))
    labels = _labels(results)
    return Table(["subject, method", *labels, f"{results[0]['labels']['dino']} of the photos", "n"], rows)


def _by_prompt(results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        prompts: dict[str, list[Mapping[str, Any]]] = {}
        for subject in result["subjects"].values():
            for image in subject["images"]:
                form = image["text"].replace(subject["class"], "{}", 1) if subject["class"] else image["text"]
                prompts.setdefault(form, []).append(image)
        for form, images in sorted(prompts.items()):
            cells = [f"{form or '(no prompt)'}, {result['method']}"]
            for kind in KINDS:
                values = [image[kind] for image in images if image[kind] is not None]
                cells.append(_amount(sum(values) / len(values) if values else None, ".3f"))
            rows.append(_texts([*cells, str(len(images))]))
    return Table(["prompt, method", *_labels(results), "n"], rows)


def _by_image(results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        for name, subject in result["subjects"].items():
            for image in subject["images"]:
                words = [name, result["method"], image["prompt"] or image["file"]]
                seed = NOTHING if image["seed"] == UNKNOWN_SEED else str(image["seed"])
                rows.append(_texts([", ".join(words), seed, *(_amount(image[kind], ".3f") for kind in KINDS)]))
    return Table(["subject, method, prompt", "seed", *_labels(results)], rows, folded=f"{len(rows)} images")


def _difference(difference: Mapping[str, Any] | None) -> Text:
    if difference is None:
        return Text(NOTHING)
    interval = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    return Text(f"{difference['difference']:+.3f}", f"{interval}; better in {difference['win_rate']:.0%}")


def _differences(results: Sequence[Result]) -> Table:
    rows = []
    for other in results[1:]:
        comparison = compare(results[0], other)
        names = f"{comparison['first']} minus {comparison['second']}"
        rows.append(_texts([names, *(_difference(comparison.get(kind)) for kind in KINDS), str(comparison["pairs"])]))
    return Table(["difference", *_labels(results), "pairs"], rows)


def _of_subject(name: str, results: Sequence[Result], folders: Sequence[Path]) -> list[Strip]:
    """A subject's photos, and a row per prompt with every method's image of the prompt's first seed."""
    pairs = zip(results, folders, strict=True)
    of_subject = [(result, folder) for result, folder in pairs if name in result["subjects"]]
    first, first_folder = of_subject[0]
    files = first["subjects"][name]["reference_files"][:6]
    strips = [Strip("", [Picture(thumbnail(first_folder / file), ["photo"]) for file in files])]
    for key, prompt in _first_seeds([result["subjects"][name]["images"] for result, _ in of_subject]).items():
        pictures = []
        for result, folder in of_subject:
            subject = result["subjects"][name]
            image = next((image for image in subject["images"] if _key(image) == key), None)
            data = thumbnail(folder / subject["folder"] / image["file"]) if image else ""
            scores = ", ".join(_amount(image[kind], ".2f") for kind in KINDS) if image else "none"
            pictures.append(Picture(data, [result["method"], scores]))
        strips.append(Strip(prompt, pictures))
    return strips


def _key(image: Mapping[str, Any]) -> tuple[str, int]:
    """Matches the images of two methods: prompt and seed, or file name and seed if there is no prompt."""
    return image["prompt"] or image["file"], image["seed"]


def _first_seeds(images: Sequence[Sequence[Mapping[str, Any]]]) -> dict[tuple[str, int], str]:
    """The key of the first image of every prompt, over all methods."""
    keys: dict[str, tuple[str, int]] = {}
    for of_method in images:
        for image in of_method:
            keys.setdefault(image["prompt"] or image["file"], _key(image))
    return {key: prompt for prompt, key in keys.items()}


def _extremes(result: Result, folder: Path) -> list[Strip]:
    """The images with the best and the worst DINO, and with the worst CLIP-T."""
    cells = [(s["folder"], name, i) for name, s in result["subjects"].items() for i in s["images"]]
    by_dino = sorted(cells, key=lambda cell: cell[2]["dino"])
    by_clip_t = sorted((cell for cell in cells if cell[2]["clip_t"] is not None), key=lambda cell: cell[2]["clip_t"])
    chosen = {"most similar": by_dino[::-1], "least similar": by_dino, "furthest from the prompt": by_clip_t}
    return [
        Strip(
            f"{result['method']}: {title}",
            [
                Picture(
                    thumbnail(folder / subfolder / i["file"]),
                    [i["prompt"] or name, f"{i['dino']:.2f}, {_amount(i['clip_t'], '.2f')}"],
                )
                for subfolder, name, i in shown[:EXTREMES]
            ],
        )
        for title, shown in chosen.items()
    ]


def page(results: Sequence[Result], folders: Sequence[Path], title: str) -> str:
    """The whole report; `folders` are those that the results' paths are relative to.

    Raises:
        VectorFitError: the results are of different protocols, or an image is missing.
    """
    for other in results[1:]:
        require_alike(results[0], other)
    protocol, subjects = results[0]["protocol"], sorted({name for result in results for name in result["subjects"]})
    extremes = [strip for pair in zip(results, folders, strict=True) for strip in _extremes(*pair)]
    tables = {
        "Scores": _summary(results),
        "Differences on equal prompts and seeds": _differences(results),
        "Overfitting": _overfitting(results),
        "By group of prompts": _by_group(results),
        "By subject": _by_subject(results),
        "By prompt": _by_prompt(results),
        "By image": _by_image(results),
    }
    return PAGES.get_template("report.html").render(
        title=title,
        size=THUMBNAIL,
        about=f"Protocol {protocol['name']}, version {protocol['version']} ({protocol['hash']}). "
        f"Intervals: {PERCENT}, bootstrap over subjects.",
        notes=[f"{result['method']}: {deviation}" for result in results for deviation in result["deviations"]],
        tables=tables.items(),
        galleries=[("Best and worst", extremes), *((name, _of_subject(name, results, folders)) for name in subjects)],
    )


def csv_of(results: Sequence[Mapping[str, Any]]) -> str:
    """One line per image, each with the schema's version."""
    names = ("group", "prompt_id", "prompt", "seed", "file", *KINDS)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["schema", "method", "subject", *names])
    for result in results:
        for subject, scores in result["subjects"].items():
            prefix = SCHEMA, result["method"], subject
            writer.writerows([*prefix, *(image[name] for name in names)] for image in scores["images"])
    return text.getvalue()


def write(results: Sequence[Mapping[str, Any]], folders: Sequence[Path], out: Path, title: str) -> list[Path]:
    """Writes report.html, report.json and report.csv into a folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {
        "schema": SCHEMA,
        "protocol": results[0]["protocol"],
        "labels": results[0]["labels"],
        "methods": [{key: r[key] for key in ("method", "overall", "facts", "deviations")} for r in results],
        "differences": [compare(results[0], other) for other in results[1:]],
    }
    contents = {
        "report.html": page(results, folders, title),
        "report.json": json.dumps(summary, indent=1, ensure_ascii=False) + "\n",
        "report.csv": csv_of(results),
    }
    for name, content in contents.items():
        write_atomically(out / name, content.encode())
    return [out / name for name in contents]
