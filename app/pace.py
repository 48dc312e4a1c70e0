"""How far a training is: its phase, read from its output and run folder, and the time that is left."""

import re
import time
from collections import deque
from dataclasses import dataclass, field

from vf_training.runs import RunFolder

LOADING, CLASS_IMAGES, TRAINING, SAMPLES, SAVING = (
    "loading the model",
    "drawing class images",
    "training",
    "drawing samples",
    "saving",
)
WINDOW = 60.0  # seconds of the pace that the time left is computed from
SETTLED = 3  # steps before a time left is shown
COUNTED = re.compile(r"class images:.*?(\d+)/(\d+)")


def phase_of(output: str, run: RunFolder, step: int, steps: int | None) -> tuple[str, str]:
    """The phase of a running training and, for class images, how many batches are drawn.

    `output` is the end of what the process printed, `step` the last one in its log.
    """
    lines = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
    trains = any(line.startswith("training:") for line in lines)
    if trains and steps and step >= steps and run.checkpoint(step).exists():
        return SAVING, ""
    if trains:
        newest = run.sample_grids()
        every = run.read_config().get("settings", {}).get("checkpointing_steps") or 0
        draws = bool(newest) and step and (step == steps or (every and step % every == 0))
        return (SAMPLES if draws and not run.checkpoint(step).exists() else TRAINING), ""
    if any(line.startswith(("method ", "resumed ")) for line in lines):
        return SAMPLES, ""
    counts = [COUNTED.match(line) for line in lines]
    last = next((match for match in reversed(counts) if match), None)
    if last:
        return CLASS_IMAGES, f"{last[1]} of {last[2]}"
    return (CLASS_IMAGES if any(line.startswith("class images") for line in lines) else LOADING), ""


@dataclass
class Pace:
    """The pace of one process. Loading and samples do not count as steps: at every pause it begins anew."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)  # (seconds, step) while it trained
    grid_seconds: float = 0.0  # that the last sample grid took
    grid_began: float | None = None
    step_seconds: float | None = None  # kept during a pause

    def observe(self, phase: str, step: int, now: float | None = None) -> None:
        """Notes the phase and the step of this moment."""
        now = time.monotonic() if now is None else now
        if phase == SAMPLES:
            self.grid_began = now if self.grid_began is None else self.grid_began
        elif self.grid_began is not None:
            self.grid_seconds, self.grid_began = now - self.grid_began, None
        if phase != TRAINING or (self.seen and step < self.seen[-1][1]):
            self.seen.clear()
        if phase == TRAINING and (not self.seen or step > self.seen[-1][1]):
            self.seen.append((now, step))
            while now - self.seen[0][0] > WINDOW and len(self.seen) > SETTLED + 1:
                self.seen.popleft()

    def left(self, step: int, steps: int, grids: int) -> float | None:
        """Seconds for the remaining steps and sample grids; None before some steps were seen."""
        if len(self.seen) > 1 and self.seen[-1][1] - self.seen[0][1] >= SETTLED:
            (began, first), (ended, last) = self.seen[0], self.seen[-1]
            self.step_seconds = (ended - began) / (last - first)
        if self.step_seconds is None:
            return None
        return (steps - step) * self.step_seconds + grids * self.grid_seconds


def duration(seconds: float | None) -> str:
    """Seconds as text, such as "2 min 5 s"; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def about(seconds: float) -> str:
    """Seconds as rough text: whole minutes from two minutes on."""
    return f"about {duration(seconds if seconds < 120 else 60 * round(seconds / 60)).removesuffix(' 0 s')}"
