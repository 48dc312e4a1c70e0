"""What is known of base models before one is loaded: settings that suit them, and names.

Here are the two bases that `--base_model auto` chooses from, because --help shows them; families/ has the others.
"""

from dataclasses import dataclass

from vf_training.methods import STABLE_DIFFUSION, STARTER

SD14 = "CompVis/stable-diffusion-v1-4"
# The names of all text encoders among the adapted models, as diffusers has them: text_encoder, text_encoder_2, ...
# It matches the names of their vectors too.
TEXT_ENCODERS = "text_encoder*"


@dataclass(frozen=True)
class Preset:
    """Settings that suit a base: for training, and for generating images with it."""

    resolution: int
    learning_rate: float
    max_train_steps: int
    num_class_images: int
    num_inference_steps: int
    guidance_scale: float
    bias_lr: float | None = None  # the biases' own rate, by a sweep of ours; None: there was no sweep
    one_rate: float | None = None  # the best single rate for sigma and biases; None: the learning rate
    rates_for: str = STABLE_DIFFUSION  # which learning rates of the other methods apply, see vf_training/methods
    train_text_encoder: bool = True  # by default
    drift_weight: float = 1e-5  # of the squared norm of all vectors: benchmarks/prior.md, measured on the starter only
    quick: tuple[str, int] | None = None  # diffusers' scheduler and steps for class images and sample grids
    batch_size: int = 1  # images generated at once; more is faster only where one image does not fill the processor


PRESETS = {
    # Rate and class images: Appendix C.5 of the paper, which gives no steps; 1000 are DreamBooth's.
    # Class images take DPM++ 2M's 25 evaluations of the UNet instead of the 51 of the base's PNDM.
    SD14: Preset(
        resolution=512,
        learning_rate=5e-5,
        max_train_steps=1000,
        num_class_images=300,
        num_inference_steps=50,
        guidance_scale=7.5,
        quick=("DPMSolverMultistepScheduler", 25),
        batch_size=4,
    ),
    # Rates and steps: benchmarks/starter_preset.md. Its own scheduler is DPM++ 2M, so class images take it too.
    "starter": Preset(
        resolution=128,
        learning_rate=4e-2,
        max_train_steps=300,
        num_class_images=40,
        num_inference_steps=20,
        guidance_scale=7.0,
        bias_lr=4e-3,
        rates_for=STARTER,
        batch_size=2,
    ),
}


def of_known_bases(setting: str) -> str:
    """What the presets give for a setting, as --help shows it."""
    shown = ", ".join(f"{getattr(preset, setting)} for {base}" for base, preset in PRESETS.items())
    return f"{shown}; other bases have their own"
