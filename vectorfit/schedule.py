"""When Adaptive Vector Freezing freezes, and how much: the paper's guideline."""

from dataclasses import dataclass

from .errors import VectorFitError

TOP_K = 5  # k: vectors frozen at a time


@dataclass(frozen=True)
class AvfSchedule:
    """When vectors are frozen: at `first_step` (t_i), then every `every` (t_f) steps, `num_freezes` (n_f) times."""

    first_step: int
    every: int
    num_freezes: int

    def __post_init__(self) -> None:
        for name, value, least in (
            ("first_step", self.first_step, 1),
            ("every", self.every, 1),
            ("num_freezes", self.num_freezes, 0),
        ):
            if value < least:
                raise VectorFitError(f"{name}: got {value}, expected at least {least}")

    def __contains__(self, step: int) -> bool:
        since = step - self.first_step
        return since >= 0 and since % self.every == 0 and since // self.every < self.num_freezes


def avf_schedule(total_steps: int | None = None, *, steps_per_epoch: int | None = None) -> AvfSchedule:
    """The paper's guideline (Appendix C), by one of two ways to count, ten freezings in all.

    With `steps_per_epoch`: first after 11 epochs' worth of steps, then every epoch, as the paper has it for its data
    sets. With `total_steps`: first at 35 % of the steps, then every 3 %, for runs
    whose epochs mean little, such as DreamBooth's. Every value is at least 1.

    Raises:
        VectorFitError: neither or both are given, or a number below 1.
    """
    given = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    counts = {name: count for name, count in given.items() if count is not None}
    if len(counts) != 1:
        raise VectorFitError("avf_schedule: expected total_steps or steps_per_epoch, one of them")
    ((name, count),) = counts.items()
    if count < 1:
        raise VectorFitError(f"{name}: got {count}, expected at least 1")
    if name == "steps_per_epoch":
        return AvfSchedule(11 * count, count, 10)
    return AvfSchedule(max(1, round(0.35 * count)), max(1, round(0.03 * count)), 10)
