"""The model card of a run: README.md beside the subject file, for the hub and for readers."""

import json

from huggingface_hub import ModelCardData

from vectorfit.atomic import write_atomically
from vf_training import methods
from vf_training.runs import VECTORS

from .families import Family
from .setup import Setup

TAGS = ["text-to-image", "dreambooth", "diffusers-training", "{family}", "vectorfit"]


def _header(setup: Setup, family: Family, samples: list[str]) -> str:
    """The YAML block that the hub reads."""
    base = setup.base.name if "/" in setup.base.name else None  # the hub accepts only a hub id
    widget = [{"text": setup.config.instance_prompt, "output": {"url": name}} for name in samples[-1:]]
    data = ModelCardData(
        base_model=base,
        library_name="diffusers",
        tags=[tag.format(family=family.hub_tag) for tag in TAGS],
        instance_prompt=setup.config.instance_prompt,
        widget=widget or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _settings(setup: Setup) -> str:
    rows = [f"| `{name}` | {value} |" for name, value in setup.shaping().items() if value is not None]
    return "\n".join(["| setting | value |", "|--|--|", *rows])


def _origin(method: str) -> str:
    if not methods.find(method).trains_vectors:
        return f"trained by {method} fine-tuning, to compare VectorFit with"
    variant = f" (method {method})" if method != "vectorfit" else ""
    paper = "[arXiv 2503.19530](https://arxiv.org/abs/2503.19530)"
    what = "changes of the\nsingular values and biases that the base already has"
    return f"trained with VectorFit ({paper}): {what}{variant}"


def text(setup: Setup, family: Family, samples: list[str]) -> str:
    """The card, with the names of sample grids relative to the run folder, oldest first."""
    config, base = setup.config, setup.base
    revision = f", revision {base.revision}" if base.revision else ""
    arguments = ", ".join(
        [json.dumps(base.name), *(f"{k}={json.dumps(v)}" for k in ("revision", "variant") if (v := getattr(base, k)))]
    )
    pictures = "\n".join(f"![{name}]({name})" for name in samples[-1:]) or "The run has no sample grids."
    return f"""{_header(setup, family, samples)}

# {setup.run.path.resolve().name}: {config.trigger}

A subject for {base.name}, {_origin(config.method)}.

Write **{config.trigger}** in a prompt to get it, as in "{config.instance_prompt} in the snow".

{pictures}

## Use

```python
from vf_dreambooth.base_models import resolve
from vf_dreambooth.pipeline import load_pipeline
pipe = load_pipeline(resolve({arguments}), [("{VECTORS}", 1.0)])
```

Then `pipe("{config.instance_prompt} in the snow").images[0]`. The number is the strength: 0 is the base model, 1 the
subject as trained. The file fits the base model it was trained on and refuses others.

## Training

Base model {base.name}{revision}; {len(setup.photos.images)} photos; class prompt "{config.class_prompt}".

{_settings(setup)}
"""


def write(setup: Setup, family: Family) -> None:
    samples = [grid.relative_to(setup.run.path).as_posix() for grid in setup.run.sample_grids()]
    write_atomically(setup.run.path / "README.md", text(setup, family, samples).encode())
