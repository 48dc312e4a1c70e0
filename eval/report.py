"""A report in one HTML file: tables with intervals, and the images."""

import base64
import csv
import html
import json
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from vectorfit.atomic import write_atomically
from vf_dreambooth.images import square
from vf_dreambooth.photos import open_photo

from .collection import UNKNOWN_SEED
from .comparison import KINDS, compare, require_alike
from .intervals import PERCENT, estimate

THUMBNAIL = 112  # pixels
SCHEMA = "vectorfit-report/1"  # of the JSON and the CSV
EXTREMES = 6  # best and worst cells shown
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); }
th { text-align: left; background: var(--soft); } th:not(:first-child) { text-align: right; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } small { opacity: .7; } img { border-radius: 4px; display: block; }
.cells { display: flex; flex-wrap: wrap; gap: 10px; } figure { margin: 0; width: 112px; }
figcaption { font-size: 11px; line-height: 1.25; margin-top: 2px; }
.none { height: 112px; border: 1px dashed var(--line); border-radius: 4px; box-sizing: border-box; }
.note { background: #fc63; padding: .5rem .8rem; border-radius: 6px; }
"""


def thumbnail(path: Path) -> str:
    """An image file as an <img> element with the data inside."""
    data = BytesIO()
    square(open_photo(path), THUMBNAIL).save(data, format="JPEG", quality=85)
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img width="{THUMBNAIL}" height="{THUMBNAIL}" alt="" src="data:image/jpeg;base64,{encoded}">'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td{'' if column == 0 else ' class=n'}>{cell}</td>" for column, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "–"
    share = f" <small>{score['percent_of_real']:.1f} % of real</small>" if "percent_of_real" in score else ""
    return f"{score['mean']:.3f} <small>{score['low']:.3f} to {score['high']:.3f}</small>{share}"


def _amount(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _frame(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows that scores are read between: the photos themselves, and the base's images of the class."""
    names = {"photos": "the photos themselves", "base": "the base, asked for the class"}
    rows = []
    for key, title in names.items():
        scores = next((result["overall"][key] for result in results if key in result["overall"]), None)
        if scores:
            rows.append([f"<i>{title}</i>", *(_amount(scores[kind], ".3f") for kind in KINDS), *["–"] * 4])
    return rows


def _summary(results: Sequence[Mapping[str, Any]]) -> str:
    labels = results[0]["labels"]
    header = ["method", *(labels[kind] for kind in KINDS), "parameters", "bytes", "seconds", "peak GiB"]
    rows = _frame(results)
    for result in results:
        facts, scores = result["facts"], result["overall"]
        memory = facts.get("memory")
        rows.append(
            [
                f"<b>{html.escape(result['method'])}</b>",
                *(_score(scores.get(kind)) for kind in KINDS),
                _amount(facts.get("parameters"), ",.0f"),
                _amount(facts.get("bytes"), ",.0f"),
                _amount(facts.get("seconds"), ".0f"),
                _amount(None if memory is None else memory / 2**30, ".1f"),
            ]
        )
    return _table(header, rows)


def _overfitting(results: Sequence[Mapping[str, Any]]) -> str:
    names = {"pres": "PRES ↓", "drift": "drift ↓", "diversity": "diversity ↑", "nearest_reference": "nearest photo"}
    rows = [[html.escape(r["method"]), *(_amount(r["overall"].get(name), ".3f") for name in names)] for r in results]
    return _table(["method", *names.values()], rows)


def _by_group(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        groups = sorted({image["group"] for s in result["subjects"].values() for image in s["images"]} - {""})
        for group in groups:
            cells = [f"{html.escape(result['method'])}, {html.escape(group)}"]
            for kind in KINDS:
                values = {
                    name: [i[kind] for i in s["images"] if i["group"] == group and i[kind] is not None]
                    for name, s in result["subjects"].items()
                }
                values = {name: scores for name, scores in values.items() if scores}
                cells.append(_score(vars(estimate(values))) if values else "–")
            rows.append(cells)
    labels = results[0]["labels"]
    return _table(["method, group", *(labels[kind] for kind in KINDS)], rows) if rows else ""


def _by_subject(results: Sequence[Mapping[str, Any]]) -> str:
    labels, rows = results[0]["labels"], []
    for name in sorted({name for result in results for name in result["subjects"]}):
        for result in results:
            subject = result["subjects"].get(name)
            if subject is not None:
                cells = [_amount(subject[kind], ".3f") for kind in KINDS]
                real = subject["real"]["dino"]["without_self"]
                rows.append(
                    [
                        f"{html.escape(name)}, {html.escape(result['method'])}",
                        *cells,
                        _amount(real, ".3f"),
                        str(subject["n"]),
                    ]
                )
    return _table(["subject, method", *(labels[kind] for kind in KINDS), f"{labels['dino']} of the photos", "n"], rows)


def _by_prompt(results: Sequence[Mapping[str, Any]]) -> str:
    labels, rows = results[0]["labels"], []
    for result in results:
        prompts: dict[str, list[Mapping[str, Any]]] = {}
        for subject in result["subjects"].values():
            for image in subject["images"]:
                form = image["text"].replace(subject["class"], "{}", 1) if subject["class"] else image["text"]
                prompts.setdefault(form, []).append(image)
        for form, images in sorted(prompts.items()):
            cells = []
            for kind in KINDS:
                values = [image[kind] for image in images if image[kind] is not None]
                cells.append(_amount(sum(values) / len(values) if values else None, ".3f"))
            rows.append(
                [f"{html.escape(form or '(no prompt)')}, {html.escape(result['method'])}", *cells, str(len(images))]
            )
    return _table(["prompt, method", *(labels[kind] for kind in KINDS), "n"], rows)


def _by_image(results: Sequence[Mapping[str, Any]]) -> str:
    labels, rows = results[0]["labels"], []
    for result in results:
        for name, subject in result["subjects"].items():
            for image in subject["images"]:
                words = [name, result["method"], image["prompt"] or image["file"]]
                seed = "–" if image["seed"] == UNKNOWN_SEED else str(image["seed"])
                scores = [_amount(image[kind], ".3f") for kind in KINDS]
                rows.append([html.escape(", ".join(words)), seed, *scores])
    table = _table(["subject, method, prompt", "seed", *(labels[kind] for kind in KINDS)], rows)
    return f"<details><summary>{len(rows)} images</summary>{table}</details>"


def _cell(image: str, caption: str) -> str:
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _grid(name: str, results: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> str:
    """A subject's photos, and a row per prompt with every method's image of the prompt's first seed."""
    pairs = zip(results, folders, strict=True)
    of_subject = [(result, folder) for result, folder in pairs if name in result["subjects"]]
    first, first_folder = of_subject[0]
    photos = "".join(
        _cell(thumbnail(first_folder / file), "photo") for file in first["subjects"][name]["reference_files"][:6]
    )
    rows = []
    for key, prompt in _first_seeds([result["subjects"][name]["images"] for result, _ in of_subject]).items():
        cells = []
        for result, folder in of_subject:
            subject = result["subjects"][name]
            image = next((image for image in subject["images"] if _key(image) == key), None)
            element = thumbnail(folder / subject["folder"] / image["file"]) if image else "<div class=none></div>"
            cells.append(_cell(element, _caption(result, image)))
        rows.append(f"<h3>{html.escape(prompt)}</h3><div class=cells>{''.join(cells)}</div>")
    return f"<h2>{html.escape(name)}</h2><div class=cells>{photos}</div>{''.join(rows)}"


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


def _caption(result: Mapping[str, Any], image: Mapping[str, Any] | None) -> str:
    scores = ", ".join(_amount(image[kind], ".2f") for kind in KINDS) if image else "none"
    return f"{html.escape(result['method'])}<br>{scores}"


def _extremes(result: Mapping[str, Any], folder: Path) -> str:
    """The images with the best and the worst DINO, and with the worst CLIP-T."""
    cells = [(s["folder"], name, i) for name, s in result["subjects"].items() for i in s["images"]]
    by_dino = sorted(cells, key=lambda cell: cell[2]["dino"])
    by_clip_t = sorted((cell for cell in cells if cell[2]["clip_t"] is not None), key=lambda cell: cell[2]["clip_t"])
    parts = []
    for title, chosen in (
        ("most similar", by_dino[::-1]),
        ("least similar", by_dino),
        ("furthest from the prompt", by_clip_t),
    ):
        figures = "".join(
            _cell(
                thumbnail(folder / subfolder / i["file"]),
                f"{html.escape(i['prompt'] or name)}<br>{i['dino']:.2f}, {_amount(i['clip_t'], '.2f')}",
            )
            for subfolder, name, i in chosen[:EXTREMES]
        )
        parts.append(
            f"<h3>{html.escape(result['method'])}: {title}</h3><div class=cells>{figures}</div>" if figures else ""
        )
    return "".join(parts)


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "–"
    interval = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    return f"{difference['difference']:+.3f} <small>{interval}; better in {difference['win_rate']:.0%}</small>"


def _differences(results: Sequence[Mapping[str, Any]]) -> str:
    labels, rows = results[0]["labels"], []
    for other in results[1:]:
        comparison = compare(results[0], other)
        names = f"{html.escape(comparison['first'])} minus {html.escape(comparison['second'])}"
        cells = [_difference(comparison.get(kind)) for kind in KINDS]
        rows.append([names, *cells, str(comparison["pairs"])])
    return _table(["difference", *(labels[kind] for kind in KINDS), "pairs"], rows) if rows else ""


def page(results: Sequence[Mapping[str, Any]], folders: Sequence[Path], title: str) -> str:
    """The whole report; `folders` are those that the results' paths are relative to.

    Raises:
        VectorFitError: the results are of different protocols, or an image is missing.
    """
    for other in results[1:]:
        require_alike(results[0], other)
    protocol, subjects = results[0]["protocol"], sorted({name for result in results for name in result["subjects"]})
    deviations = "".join(
        f"<p class=note>{html.escape(result['method'])}: {html.escape(deviation)}</p>"
        for result in results
        for deviation in result["deviations"]
    )
    sections = [
        ("Scores", _summary(results)),
        ("Differences on equal prompts and seeds", _differences(results)),
        ("Overfitting", _overfitting(results)),
        ("By group of prompts", _by_group(results)),
        ("By subject", _by_subject(results)),
        ("By prompt", _by_prompt(results)),
        ("By image", _by_image(results)),
        ("Best and worst", "".join(_extremes(result, folder) for result, folder in zip(results, folders, strict=True))),
    ]
    body = "".join(f"<h2>{html.escape(name)}</h2>{content}" for name, content in sections if content)
    grids = "".join(_grid(name, results, folders) for name in subjects)
    about = f"Protocol {protocol['name']}, version {protocol['version']} ({protocol['hash']}). "
    about += f"Intervals: {PERCENT}, bootstrap over subjects."
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>{deviations}{body}{grids}</body></html>\n"
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
