"""Errors that stop a training, with what the user can do about them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vectorfit import VectorFitError
from vf_training.device import is_out_of_memory

from .config import TrainConfig
from .data import DataSampler
from .memory_presets import next_smaller


def not_finite(
    what: str, value: float, step: int, config: TrainConfig, data_sampler: DataSampler, names: Sequence[str]
) -> str:
    """The message for a loss or gradient that is NaN or infinite: step, pictures, remedy."""
    batches = [
        data_sampler.batch(step, first) for first in range(0, data_sampler.global_batch_size, data_sampler.batch_size)
    ]
    photos = sorted({names[i] for batch in batches for i in batch.picture[~batch.is_class].tolist()})
    classes = sorted({i for batch in batches for i in batch.picture[batch.is_class].tolist()})
    shown = f"photos {', '.join(photos)}" + (f", class images {', '.join(map(str, classes))}" if classes else "")
    other = " or --mixed_precision bf16 or no" if config.mixed_precision == "fp16" else ""
    return (
        f"the {what} is {value} at step {step} ({shown}); the newest checkpoint has the vectors from before this step. "
        f"Start a new run with a lower --learning_rate (now {config.learning_rate}){other}"
    )


def memory_remedy(config: TrainConfig) -> str:
    """What to add or change so that this training takes less memory, and gives the same result up to rounding."""
    card = next_smaller(config)
    if card is not None:
        return f"add --memory {card}"
    return f"give a smaller --resolution than {config.resolution}"


@contextmanager
def memory_advice(config: TrainConfig, together: int = 1) -> Iterator[None]:
    """Turns an out-of-memory error into a message with the flags to add; so many subjects are in a batch together.

    Raises:
        VectorFitError: there was not enough memory.
    """

    def remedy() -> str:
        return memory_remedy(config) if together == 1 else f"give a smaller --together than {together}"

    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise VectorFitError(f"out of memory; {remedy()}. ({str(error).splitlines()[0]})") from error
    except MemoryError as error:
        raise VectorFitError(f"out of memory; {remedy()}") from error
