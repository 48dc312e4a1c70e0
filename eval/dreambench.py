"""DreamBench: its subjects and prompts (google/dreambooth, prompts_and_classes.txt, CC BY 4.0)."""

from dataclasses import dataclass

from vf_dreambooth.prompts import KNOWN_SUBJECTS

PROMPTS = "live or object (DreamBench's), or a file with one prompt per line and {} for the subject"
STRENGTHS = (0.8, 1.0, 1.2)  # at which `select` tries each checkpoint
FIRST_SEED = 100_000  # far from the seeds of previews and class images, which the training used

TOKEN = "sks"
SHARED = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
)
OBJECTS = (
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
LIVE = (
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
)
PROPERTIES = ("red", "purple", "shiny", "wet", "cube shaped")
# The grounds and colours that the starter knows: of the grounds all but two.
STARTER_GROUNDS = tuple(words for words in (*SHARED, *OBJECTS) if "mirror" not in words and "sidewalk" not in words)
STARTER_PROPERTIES = ("red", "purple")

# The subjects of the data set and their classes. Most subjects have the name of their class.
NAMED_AS_CLASS = "backpack can candle cat cat2 clock dog dog2 dog3 dog5 dog6 dog7 dog8 teapot vase".split()
SUBJECTS = {**KNOWN_SUBJECTS, **{name: name.rstrip("0123456789") for name in NAMED_AS_CLASS}}

ANIMALS = (
    "bear",
    "bird",
    "cat",
    "dog",
    "dragon",
    "elephant",
    "fish",
    "fox",
    "horse",
    "monkey",
    "owl",
    "rabbit",
    "turtle",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt: its number in the list (from 1), its group, and its text with {} for the subject."""

    number: int
    group: str  # recontextualization, accessorization or property
    form: str  # with {} for "TOKEN CLASS"

    def text(self, thing: str) -> str:
        return self.form.format(thing)


def is_live(cls: str) -> bool:
    """Whether a class is an animal, which gets the prompts for live subjects."""
    return cls.split()[-1] in ANIMALS


def prompts(live: bool, *, starter: bool = False) -> list[Prompt]:
    """The 25 prompts for live subjects or for objects; with `starter` only those that the starter knows."""
    own_group = "accessorization" if live else "recontextualization"
    forms = [("recontextualization", f"a {{}} {words}") for words in SHARED]
    forms += [(own_group, f"a {{}} {words}") for words in (LIVE if live else OBJECTS)]
    forms += [("property", f"a {word} {{}}") for word in PROPERTIES]
    numbered = [Prompt(number, group, form) for number, (group, form) in enumerate(forms, start=1)]
    if not starter:
        return numbered
    known = {f"a {{}} {words}" for words in STARTER_GROUNDS} | {f"a {word} {{}}" for word in STARTER_PROPERTIES}
    return [prompt for prompt in numbered if prompt.form in known]
