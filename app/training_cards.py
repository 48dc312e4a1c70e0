"""The page's HTML of trainings: photos before one, its phases and time left, its loss and its samples."""

import base64
import html
import json
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from .cards import action, data_url, escaped
from .jobs import FAILED, FINISHED, QUEUED, RUNNING, STOPPED, STOPPING, Status
from .pace import CLASS_IMAGES, LOADING, SAMPLES, SAVING, TRAINING, duration
from .photo_check import PhotoCheck
from .photo_edits import PhotoEdit

NUMBERED = (LOADING, CLASS_IMAGES, TRAINING, SAVING)
POINTS, WIDTH, HEIGHT = 200, 600, 120  # of the loss curve
SMOOTHING = 0.9
WHOLE = 640  # pixels of the longer side of a photo that is being cut
SAID = {
    QUEUED: "waits",
    RUNNING: "is training",
    STOPPING: "stops and saves after this step",
    STOPPED: "is stopped",
    FINISHED: "is finished",
    FAILED: "did not finish",
}


def step_title(number: int, title: str, more: str = "") -> str:
    """The heading of a numbered step."""
    return f'<h2 class="step"><i>{number}</i>{title} <small>{more}</small></h2>'


def photo_cards(checked: PhotoCheck, edits: Sequence[PhotoEdit]) -> str:
    """Every photo once: its square as the training sees it, what is wrong with it, its caption; cut, remove."""
    made = [_photo(number, *each) for number, each in enumerate(zip(checked.rows, checked.shown, edits, strict=True))]
    hint = "A caption is the prompt that a photo is trained with; without one it is “a photo of” your subject."
    return f'<div class="photos">{"".join(made)}</div><p class="note">{hint}</p>' if made else ""


def _photo(number: int, row: Sequence[str], image: Image.Image | None, edit: PhotoEdit) -> str:
    name, pixels, note = (escaped(text) for text in row)
    warned = "" if note == "good" else " warned"
    said = f"<b>{name}</b><br>{pixels if note == 'good' else f'{pixels}: {note}'}"
    remove = action("remove", str(number), "Remove", named=f"Remove {name}")
    if image is None:
        below = f'<figcaption>{said}</figcaption><div class="bar">{remove}</div>'
        return f'<figure class="photo{warned}"><span class="bad">✕</span>{below}</figure>'
    crop = f' data-crop="{escaped(json.dumps(edit.crop))}"' if edit.crop else ""
    return (
        f'<figure class="photo{warned}" data-name="{name}" data-whole="{whole_url(image)}"{crop}>'
        f'<img src="{data_url(edit.cut(image))}" alt="{name}"><figcaption>{said}</figcaption>'
        f'<input class="caption" value="{escaped(edit.caption)}" placeholder="caption" aria-label="Caption of {name}">'
        f'<div class="bar"><button type="button" class="act" data-cut aria-label="Crop {name}">Crop</button>{remove}'
        "</div></figure>"
    )


def whole_url(image: Image.Image) -> str:
    """A photo inside the page, whole, to cut."""
    small = image.copy()
    small.thumbnail((WHOLE, WHOLE))
    return grid_url(small)


def _phases(status: Status) -> str:
    now = TRAINING if status.phase == SAMPLES else status.phase
    place = NUMBERED.index(now) if now in NUMBERED else 0
    items = []
    for number, phase in enumerate(NUMBERED):
        current = ' aria-current="step"' if number == place else ""
        done = ' class="done"' if number < place else ""
        items.append(f"<li{current}{done}>{'✓' if number < place else number + 1} {phase}</li>")
    return f'<ol class="phases">{"".join(items)}</ol>'


def _explained(status: Status) -> str:
    """What a person can do about a training that does not run."""
    again = f"Continue goes on from step {status.checkpoint}." if status.checkpoint else "Continue begins it anew."
    if status.state == FAILED:
        return f"{status.message}\n{again}"
    if status.state == STOPPED:
        return f"What was learnt is saved. {again}" if status.checkpoint else again
    if status.state == QUEUED:
        return f"{status.ahead} before it in the queue." if status.ahead else "It begins in a moment."
    if status.state == FINISHED:
        return "Generate with it, or look at it under Subjects."
    return ""


def progress(status: Status, losses: Sequence[float]) -> str:
    """A training's state: numbered phases, a bar, the time left, what happened, the loss."""
    details = [status.detail, f"step {status.step} of {status.steps}" if status.step and status.steps else ""]
    details.append(status.phase if status.phase == SAMPLES else "")
    details.append(f"about {duration(status.eta)} left" if status.eta is not None else "")
    if status.state == RUNNING and status.eta is None:
        details.append("the time left is known after a few steps")
    words = " · ".join(detail for detail in details if detail)
    bar = ""
    if status.state in (RUNNING, STOPPING, STOPPED, FAILED) and status.steps:
        bar = f'<progress value="{status.step}" max="{status.steps}" aria-label="progress of the training"></progress>'
    phases = _phases(status) if status.state == RUNNING else ""
    why = f'<p class="why">{escaped(_explained(status))}</p>' if _explained(status) else ""
    # Only the state has the role "status": a screen reader would otherwise read out every step.
    state = f'<span role="status">{html.escape(status.name)} {SAID[status.state]}</span>'
    return f'<p class="state">{state} <small>{escaped(words)}</small></p>{phases}{bar}{why}{loss_curve(losses)}'


def loss_curve(losses: Sequence[float]) -> str:
    """The smoothed loss as a line."""
    if len(losses) < 2:
        return ""
    smooth, value = [], losses[0]
    for loss in losses:
        value = SMOOTHING * value + (1 - SMOOTHING) * loss
        smooth.append(value)
    every = max(1, len(smooth) // POINTS)
    kept = smooth[::every]
    low, high = min(kept), max(kept)
    span = (high - low) or 1
    points = " ".join(
        f"{WIDTH * i / (len(kept) - 1 or 1):.1f},{4 + (HEIGHT - 8) * (high - one) / span:.1f}"
        for i, one in enumerate(kept)
    )
    label = f"loss, from {smooth[0]:.3f} to {smooth[-1]:.3f}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<polyline points="{points}" fill="none" stroke="var(--primary-500)" stroke-width="2" '
        f'vector-effect="non-scaling-stroke"/></svg><small>loss {smooth[-1]:.3f}, smoothed</small>'
    )


def timeline(samples: Sequence[tuple[int, str]]) -> str:
    """The sample grids by step, oldest first: (step, data URL)."""
    if not samples:
        return ""
    figures = "".join(
        f'<figure><button type="button" class="zoom" data-full="{url}" data-caption="step {step}">'
        f'<img src="{url}" alt="samples at step {step}"></button><figcaption>step {step}</figcaption></figure>'
        for step, url in samples
    )
    head = '<p class="state"><small>Samples, from before the first step until now</small></p>'
    return f'{head}<div class="timeline">{figures}</div>'


NO_TRAINING = (
    '<div class="nothing"><b>No training yet</b><p>Drop three to ten photos of one thing, say what it is, and start. '
    "You can close the page: the training goes on.</p></div>"
)


def grid_url(image: Image.Image) -> str:
    """A picture inside the page, at its own size."""
    data = BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
