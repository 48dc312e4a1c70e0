"""What is learnt: photos, their prompts, and how they are cut."""

from dataclasses import dataclass

from vf_training.options import fraction, not_blank, only_with, option, printable

GROUP = "subject"


@dataclass(frozen=True)
class SubjectSettings:
    """The flags under "subject"."""

    instance_data_dir: str = option(
        "",
        "folder with three to ten photos of the subject, or a folder of such folders, one subject each (required); "
        "PHOTO.txt beside a photo is that photo's prompt, PHOTO.mask.png shows the subject in white",
        group=GROUP,
        flags=("--instance_dir", "--instance_data_dir"),
        checks=(not_blank("a folder with photos of the subject"),),
        shapes_result=False,
    )
    class_noun: str | None = option(
        None,
        "what the subject is, such as dog; by default from the folder's name",
        group=GROUP,
        checks=(printable(60),),
        infer=lambda config, _: config.noun() or None,
        depends_on=("instance_data_dir",),
    )
    token: str = option(
        "sks",
        "the rare word that will name the subject",
        group=GROUP,
        checks=(not_blank("a rare word such as sks"), printable(40)),
    )
    instance_prompt: str | None = option(
        None,
        "prompt of the photos; by default 'a photo of TOKEN NOUN'. In every prompt {token} and {class} stand for these "
        "words",
        group=GROUP,
        checks=(printable(1000),),
        infer=lambda config, _: config.default_prompts()[0],
        depends_on=("class_noun", "token"),
    )
    class_prompt: str | None = option(
        None,
        "prompt of the class images; by default 'a photo of a NOUN'",
        group=GROUP,
        checks=(printable(1000),),
        infer=lambda config, _: config.default_prompts()[1] or config.instance_prompt,
        depends_on=("class_noun",),
    )
    caption_dropout: float = option(
        0.0,
        "share of the photos' samples that are trained without a prompt, so that pictures without one stay good: "
        "guidance draws from them",
        group=GROUP,
        checks=(fraction,),
    )
    shuffle_captions: bool = option(
        False,
        "mix what stands between the commas of a photo's own prompt, but for the first part, in eight ways: so that "
        "the order of tags is not learnt",
        group=GROUP,
    )
    center_crop: bool = option(
        True, "train on the centre of each photo, or of its mask; otherwise on random squares", group=GROUP
    )
    aspect_ratio_buckets: bool = option(
        False,
        "train photos that are not square whole, at sizes of their form that have as many pixels as the square",
        group=GROUP,
        conflict=only_with("center_crop", True, because="photos are cut to random squares; leave out --no-center_crop"),
    )
    random_flip: bool = option(False, "train on mirrored photos too", group=GROUP)
    unmasked_weight: float = option(
        0.1,
        "how much the ground counts in photos with a mask or transparency, where the subject counts 1; with 1 masks "
        "change nothing but the cut",
        group=GROUP,
        checks=(fraction,),
    )
