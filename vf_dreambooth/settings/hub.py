"""The upload of a finished run."""

from dataclasses import dataclass

from vf_training.options import only_with, option, printable

GROUP = "hub"


@dataclass(frozen=True)
class HubSettings:
    """The flags under "hub"."""

    push_to_hub: bool = option(
        False, "upload the finished run's card and subject file", group=GROUP, shapes_result=False
    )
    hub_private_repo: bool = option(
        False,
        "make the repository private, where the upload creates it",
        group=GROUP,
        conflict=only_with("push_to_hub", True, because="nothing is uploaded without --push_to_hub"),
        shapes_result=False,
    )
    hub_license: str | None = option(
        None,
        "licence that the card names, by the hub's identifier, such as creativeml-openrail-m, which Stable Diffusion 1 "
        "asks of what is made from it",
        group=GROUP,
        checks=(printable(60),),
        shapes_result=False,
    )
    hub_model_id: str | None = option(
        None,
        "repository to upload to; by default the run folder's name",
        group=GROUP,
        conflict=only_with("push_to_hub", True, because="nothing is uploaded without --push_to_hub"),
        depends_on=("push_to_hub",),
        shapes_result=False,
    )
