"""The form of the Generate tab as values: from fields to a request, and from an image's settings to fields."""

import random
from typing import Any

from vectorfit import VectorFitError

from .cards import NO_SUBJECT
from .generation import GenerationRequest
from .handlers import number, whole_number

NEW_SEEDS = 10**6  # a new seed is below this, short enough to read and to write down


def request_of(
    subject: str,
    strength: float,
    second: str,
    second_strength: float,
    prompt: str,
    negative_prompt: str,
    count: int,
    seed: float,
    random_seed: bool,
    steps: int,
    guidance: float,
    size: int,
    sampler: str,
) -> GenerationRequest:
    """The request that the fields ask for. Raises VectorFitError for a field without a number."""
    strengths = ((subject, strength, "strength"), (second, second_strength, "strength of the second"))
    return GenerationRequest(
        tuple((name, number(value, field)) for name, value, field in strengths if name not in (None, "", NO_SUBJECT)),
        prompt or "",
        negative_prompt or "",
        random.randrange(NEW_SEEDS) if random_seed else whole_number(seed, "seed"),
        whole_number(count, "images"),
        whole_number(steps, "steps"),
        number(guidance, "guidance"),
        whole_number(size, "size"),
        sampler,
    )


def fields_of(parameters: dict) -> tuple[Any, ...]:
    """The fields of `request_of` but the count, in its order. Raises VectorFitError for settings of something else."""
    try:
        subjects = [(str(each["name"]), float(each["strength"])) for each in parameters["subjects"]][:2]
        prompt, negative = str(parameters["prompt"]), str(parameters["negative_prompt"])
        seed, steps = int(parameters["seed"]), int(parameters["num_inference_steps"])
        guidance, size = float(parameters["guidance_scale"]), int(parameters["resolution"])
        sampler = str(parameters["sampler"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise VectorFitError(
            "this image holds no settings of Generate (a sheet, or another tool's image); choose one from there"
        ) from error
    first, second = (subjects + [(NO_SUBJECT, 1.0)] * 2)[:2]
    return *first, *second, prompt, negative, seed, False, steps, guidance, size, sampler


def with_trigger(prompt: str, previous: str, trigger: str) -> str:
    """The prompt with the previous subject's trigger phrase replaced by the new one; what a person wrote stays."""
    if previous and previous in prompt:
        return prompt.replace(previous, trigger or previous.split()[-1])
    return prompt if not trigger or prompt.strip() else f"a photo of {trigger}"
