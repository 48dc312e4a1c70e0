"""The upload of a finished run."""

from dataclasses import dataclass

from vf_dreambooth.options import only_with, option

GROUP = "hub"


@dataclass(frozen=True)
class HubSettings:
    """The flags under "hub"."""

    push_to_hub: bool = option(
        False, "upload the finished run's card and subject file", group=GROUP, shapes_result=False
    )
    hub_model_id: str | None = option(
        None,
        "repository to upload to; by default the run folder's name",
        group=GROUP,
        conflict=only_with("push_to_hub", True, because="nothing is uploaded without --push_to_hub"),
        depends_on=("push_to_hub",),
        shapes_result=False,
    )
