"""The class noun and the prompts that a folder's name gives."""

import re

from vectorfit import VectorFitError

# DreamBench's subjects whose class is not in their name (google/dreambooth, prompts_and_classes.txt).
KNOWN_SUBJECTS = {
    "backpack_dog": "backpack",
    "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl",
    "colorful_sneaker": "sneaker",
    "duck_toy": "toy",
    "fancy_boot": "boot",
    "grey_sloth_plushie": "stuffed animal",
    "monster_toy": "toy",
    "pink_sunglasses": "glasses",
    "poop_emoji": "toy",
    "rc_car": "toy",
    "red_cartoon": "cartoon",
    "robot_toy": "toy",
    "shiny_sneaker": "sneaker",
    "wolf_plushie": "stuffed animal",
}
UNINFORMATIVE = frozenset(
    "data dataset datasets download downloads example examples folder image images img imgs input inputs instance "
    "instances my new photo photos pic pics picture pictures reference references sample samples set subject subjects "
    "test tmp train training upload uploads camera dcim jpg png".split()
)


def class_noun(folder_name: str) -> str:
    """The noun for a folder's subject: `dog6` gives dog, `my_teapot` gives teapot, DreamBench's names are known.

    Raises:
        VectorFitError: the name does not say what the subject is.
    """
    name = folder_name.strip().lower().replace("-", "_").replace(" ", "_")
    if name in KNOWN_SUBJECTS:
        return KNOWN_SUBJECTS[name]
    words = [word for word in re.split(r"[\W\d_]+", name) if word and word not in UNINFORMATIVE]
    if not words:
        raise VectorFitError(
            f"the folder name {folder_name!r} does not say what the subject is; "
            "name it with --class_noun, as in --class_noun dog"
        )
    return " ".join(words)


def default_prompts(token: str, noun: str) -> tuple[str, str]:
    """The instance and the class prompt of the DreamBooth paper's form."""
    article = "an" if noun[0] in "aeiou" else "a"
    return f"a photo of {token} {noun}", f"a photo of {article} {noun}"


def preview_prompts(instance_prompt: str, class_prompt: str) -> list[str]:
    """The prompts of a sample grid: the subject as in the photos, in two new scenes, and the class."""
    return [
        instance_prompt,
        f"{instance_prompt} in the snow",
        f"{instance_prompt} on top of a wooden floor",
        class_prompt,
    ]
