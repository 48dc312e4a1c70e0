"""The page's HTML of trainings: photos before one, its phases and time left, its loss and its samples."""

import base64
import html
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from .cards import data_url, escaped
from .jobs import FAILED, FINISHED, QUEUED, RUNNING, STOPPED, STOPPING, Status
from .pace import CLASS_IMAGES, LOADING, SAMPLES, SAVING, TRAINING
from .photo_check import PhotoCheck

NUMBERED = (LOADING, CLASS_IMAGES, TRAINING, SAVING)
POINTS, WIDTH, HEIGHT = 200, 600, 120  # of the loss curve
SMOOTHING = 0.9
SAID = {
    QUEUED: "waits",
    RUNNING: "is training",
    STOPPING: "stops and saves after this step",
    STOPPED: "is stopped",
    FINISHED: "is finished",
    FAILED: "did not finish",
}


def duration(seconds: float | None) -> str:
    """Seconds as text, such as "2 min 5 s"; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def photo_cards(checked: PhotoCheck) -> str:
    """Every photo once: its square as the training sees it, its name, and what is wrong with it."""
    made = []
    for (name, pixels, note), image in zip(checked.rows, checked.shown, strict=True):
        picture = f'<img src="{data_url(image)}" alt="{escaped(name)}">' if image else '<span class="bad">✕</span>'
        warned = "" if note == "good" else ' class="warned"'
        said = escaped(pixels if note == "good" else f"{pixels}: {note}")
        made.append(f"<figure{warned}>{picture}<figcaption><b>{escaped(name)}</b><br>{said}</figcaption></figure>")
    return f'<div class="photos">{"".join(made)}</div>'


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
    """A sample grid inside the page, at its own size."""
    data = BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
