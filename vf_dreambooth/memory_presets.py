"""Settings that fit a card: `--memory GB` chooses how a batch is split, and leaves its size, so the result, alone."""

from dataclasses import dataclass, replace

from .config import TrainConfig


@dataclass(frozen=True)
class MemoryPreset:
    """How much is on the device at once: photos (and as many class images) of a batch, and pictures being drawn."""

    photos: int
    pictures: int
    gradient_checkpointing: bool = False


# By the card's GB. docs/gpu.md has what each takes with Stable Diffusion v1.4.
PRESETS = {
    24: MemoryPreset(photos=4, pictures=8),
    16: MemoryPreset(photos=2, pictures=8),
    12: MemoryPreset(photos=1, pictures=4),
    8: MemoryPreset(photos=1, pictures=1, gradient_checkpointing=True),
}


def fitted(config: TrainConfig, card: int | None) -> TrainConfig:
    """The settings with a batch split to fit a card of so many GB; those that take less already are left alone."""
    if card is None:
        return config
    preset, batch = PRESETS[card], config.effective_batch_size
    most = min(preset.photos, config.train_batch_size)
    at_once = next(photos for photos in range(most, 0, -1) if batch % photos == 0)
    return replace(
        config,
        train_batch_size=at_once,
        gradient_accumulation_steps=batch // at_once,
        gradient_checkpointing=config.gradient_checkpointing or preset.gradient_checkpointing,
        sample_batch_size=min(preset.pictures, config.sample_batch_size),
    )


def next_smaller(config: TrainConfig) -> int | None:
    """The largest card whose preset takes less memory than these settings, in training or in drawing; None: none."""
    return next((card for card in PRESETS if fitted(config, card) != config), None)
