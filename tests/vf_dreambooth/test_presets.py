"""What is known of bases before one is loaded."""

from vf_dreambooth.families import FAMILIES
from vf_dreambooth.presets import PRESETS, SD14, of_known_bases


def test_help_shows_what_the_families_take():
    of_families = {name: preset for family in FAMILIES for name, preset in family.presets.items()}
    assert {name: of_families[name] for name in PRESETS} == PRESETS
    shown = f"512 for {SD14}, {PRESETS['starter'].resolution} for starter; other bases have their own"
    assert of_known_bases("resolution") == shown
