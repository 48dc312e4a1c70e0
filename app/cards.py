"""The page's own HTML: tiles of subjects, reference photos, results in pairs, the gallery. All text is escaped."""

import base64
import html
import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps

from vf_dreambooth.engine import OWN_SCHEDULER

from .drawings import Progress
from .gallery import Drawing
from .subjects import Subject

NO_SUBJECT = "(none)"
PICTURES = "pictures"  # where the server serves the galleries
TILE, TILE_QUALITY = 160, 85  # pixels of a tile and of a reference photo
# A click on anything with data-action becomes one event of the component.
ACTIONS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (!button) return;
  if (button.dataset.ask && !window.confirm(button.dataset.ask)) return;
  trigger('click', {action: button.dataset.action, of: button.dataset.of || ''});
});
"""


def escaped(text: object) -> str:
    return html.escape(str(text))


def data_url(image: Image.Image) -> str:
    """A small square JPEG inside the page."""
    data = BytesIO()
    fitted = ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
    fitted.save(data, "JPEG", quality=TILE_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def action(what: str, of: str, label: str, ask: str = "", named: str = "") -> str:
    """A button that triggers an action of its component, after a question if there is one.

    `named` is what a screen reader says, where the label alone is not enough.
    """
    more = f' data-ask="{escaped(ask)}"' if ask else ""
    more += f' aria-label="{named}"' if named else ""
    return f'<button type="button" class="act" data-action="{what}" data-of="{escaped(of)}"{more}>{label}</button>'


def tiles(subjects: Sequence[Subject], pictures: dict[str, str], chosen: str) -> str:
    """A button per subject, with its picture; the chosen one is pressed."""
    entries = [(subject.name, subject.label, subject.trigger, pictures.get(subject.name, "")) for subject in subjects]
    entries.append((NO_SUBJECT, "No subject", "base model", ""))
    made = []
    for name, label, below, picture in entries:
        image = f'<img src="{picture}" alt="">' if picture else '<span class="blank" aria-hidden="true">∅</span>'
        made.append(
            f'<button type="button" class="tile" data-action="choose" data-of="{escaped(name)}" '
            f'aria-pressed="{str(name == chosen).lower()}">{image}<b>{escaped(label)}</b>'
            f"<small>{escaped(below)}</small></button>"
        )
    return f'<div class="tiles" role="group" aria-label="Subjects">{"".join(made)}</div>'


def chips(prompts: Sequence[str]) -> str:
    """Prompts to click."""
    made = [
        f'<button type="button" class="chip" data-action="example" data-of="{escaped(text)}">{escaped(text)}</button>'
        for text in prompts
    ]
    return f'<div class="chips">{"".join(made)}</div>'


def references(name: str, photos: Sequence[str]) -> str:
    """The photos a subject was trained on, to judge likeness by."""
    if not photos:
        return ""
    images = "".join(f'<img src="{photo}" alt="photo {n + 1} of {escaped(name)}">' for n, photo in enumerate(photos))
    return f'<div class="references"><span>Photos of {escaped(name)}</span><div>{images}</div></div>'


def subject_card(subject: Subject, photos: Sequence[str], lines: Sequence[str], shipped: bool) -> str:
    """What a subject is: its photos, the words that call it, a line of facts."""
    images = "".join(
        f'<img src="{one}" alt="photo {n + 1} of {escaped(subject.label)}">' for n, one in enumerate(photos)
    )
    stays = "<p>It came with VectorFit and stays as it is.</p>" if shipped else ""
    return (
        f'<section class="subject"><h2>{escaped(subject.label)}</h2><div class="photo-row">{images}</div>'
        f"<p>Say <b>{escaped(subject.trigger)}</b> in a prompt.</p>"
        f'<p class="details">{escaped(" · ".join(lines))}</p>{stays}</section>'
    )


def plots(drawn: dict[str, str]) -> str:
    """Figures of a training; each has its title in it."""
    return "".join(f'<div class="plot" role="img" aria-label="{title}">{svg}</div>' for title, svg in drawn.items())


def sketch_url(image: Image.Image) -> str:
    """A rough picture of a few pixels inside the page."""
    data = BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _unfinished(caption: str, progress: Progress | None, sketch: Image.Image | None) -> str:
    """The place of a picture that is not there: it waits, is being drawn, or was never drawn."""
    state = "missing" if progress is None else "waiting" if sketch is None else "sketched"
    rough = f'<img src="{sketch_url(sketch)}" alt="being drawn">' if progress and sketch else ""
    box = f'<div class="empty {state}" style="aspect-ratio:1">{rough}</div>'
    return f"<figure>{box}<figcaption>{caption}</figcaption></figure>"


def _figure(drawing: Drawing, file: str, caption: str, side: int) -> str:
    shape = f'style="aspect-ratio:1" data-side="{side}"'
    address = f"{PICTURES}/{drawing.folder.parent.name}/{drawing.id}/{file}"
    plain = escaped(html.unescape(caption))
    return (
        f'<figure><button type="button" class="zoom" data-full="{address}" data-caption="{plain}" '
        f'aria-label="Full size: {plain}"><img src="{address}" alt="{plain}" {shape}></button>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _subject_words(parameters: dict) -> str:
    """The subjects of a drawing, with the strength of those that are not as trained."""
    subjects = [(str(each["name"]).rpartition("/")[2], each["strength"]) for each in parameters.get("subjects", [])]
    return (
        " + ".join(name if strength == 1 else f"{name} at {strength:g}" for name, strength in subjects) or "Base model"
    )


def pairs(drawing: Drawing, progress: Progress | None = None) -> str:
    """The pictures of a drawing by seed, each beside the base's; of two subjects, the base's is in a corner."""
    side, sketches = int(drawing.parameters.get("resolution", 0)), dict(progress.sketches) if progress else {}
    own, made = escaped(_subject_words(drawing.parameters)), []
    mixed = " mixed" if drawing.compare and len(drawing.parameters.get("subjects", [])) > 1 else ""
    kinds = [("Base model", True, drawing.base_images)] if drawing.compare else []
    kinds.append((own, False, drawing.images))
    for seed in drawing.seeds:
        figures = []
        for what, base, pictures in kinds:
            caption = "base" if base and mixed else f"{what} · seed {seed}"
            if seed in pictures:
                figures.append(_figure(drawing, pictures[seed].name, caption, side))
            else:
                figures.append(_unfinished(caption, progress, sketches.get((seed, base))))
        made.append(f'<div class="pair{mixed}">{"".join(figures)}</div>')
    kind = "mixes" if mixed else "compared" if drawing.compare else "alone"
    return f'<div class="pairs {kind}">{"".join(made)}</div>'


def settings_link(parameters: dict, seed: int) -> str:
    """The part of an address that holds the settings."""
    text = json.dumps(parameters | {"seed": seed}, separators=(",", ":"))
    return f"?settings={base64.urlsafe_b64encode(text.encode()).decode()}"


def settings_of_link(text: str) -> dict[str, Any]:
    """The settings in a link; an empty dict for a damaged one."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text.encode()))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _bar(drawing: Drawing) -> str:
    link = settings_link(drawing.parameters, drawing.seeds[0])
    zipped = f"{PICTURES}/{drawing.folder.parent.name}/{drawing.id}.zip"
    return (
        '<div class="bar">'
        + action("reuse", drawing.id, "Use these settings")
        + f'<button type="button" class="act" data-copy="{link}">Copy link</button>'
        + f'<a class="act" href="{zipped}" download>Download</a>'
        + action("delete", drawing.id, "Delete", ask="Delete these pictures?")
        + "</div>"
    )


def results(drawing: Drawing | None, progress: Progress | None = None) -> str:
    """The newest drawing, large; what will come if there is none."""
    if drawing is None:
        return (
            '<div class="nothing"><b>Your pictures appear here</b><p>Choose a subject, say what to draw, and press '
            "Generate. Beside each picture stands what the base model draws at the same seed.</p></div>"
        )
    notes = "".join(f'<p class="note">{escaped(note)}</p>' for note in drawing.notes)
    if progress is None and len(drawing.images) < len(drawing.seeds):
        notes += '<p class="note">It ended early; what was drawn is kept.</p>'
    head = ""
    if progress is not None:
        name = progress.what.rpartition("/")[2]
        before = f"{progress.ahead} {'drawing' if progress.ahead == 1 else 'drawings'} before yours"
        text = f"Drawing {escaped(name)}: step {progress.done} of {progress.total}" if progress.done else ""
        text = text or ("Loading the model" if progress.what else "Preparing")
        text = before if progress.ahead else text
        head = (
            f'<div class="drawing"><progress value="{progress.done}" max="{progress.total}" aria-label="progress">'
            f"</progress><span>{text}</span></div>"
        )
    below = "" if progress is not None else _bar(drawing)
    return f"{head}{pairs(drawing, progress)}{below}{notes}"


def gallery(drawings: Sequence[Drawing]) -> str:
    """Everything this browser drew, the newest first."""
    if not drawings:
        kept = "What you generate is kept here until you delete it."
        return f'<div class="nothing"><b>Nothing drawn yet</b><p>{kept}</p></div>'
    made = []
    for drawing in drawings:
        p = drawing.parameters
        details = f"{p.get('num_inference_steps')} steps · guidance {p.get('guidance_scale'):g}"
        details += f" · {p['sampler']}" if p.get("sampler", OWN_SCHEDULER) != OWN_SCHEDULER else ""
        made.append(
            f'<section class="kept"><h3>{escaped(p.get("prompt", ""))}</h3><p class="details">'
            f"{escaped(_subject_words(p))} · {escaped(details)}</p>{pairs(drawing)}{_bar(drawing)}</section>"
        )
    return "".join(made)
