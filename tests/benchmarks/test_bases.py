"""The counts in docs/bases.md are those of the published configurations."""

from pathlib import Path

from benchmarks import bases


def test_the_documentation_has_the_table_as_it_is_counted():
    text = (Path(__file__).parents[2] / "docs" / "bases.md").read_text()
    assert "\n".join([bases.HEADER, *bases.rows()]) in text


def test_counts_that_are_known():
    """The sizes that the models' publishers give, in billions."""
    sizes = {row.split(" | ")[0].strip("| "): row for row in bases.rows() if "and CLIP" not in row}
    published = {"Stable Diffusion XL": 2.6, "Stable Diffusion 3.5 large": 8.1, "Flux.1 dev": 11.9, "Z-Image": 6.2}
    for name, billions in published.items():
        total = int(sizes[name].split(" | ")[4].replace(",", ""))
        assert round(total / 1e9, 1) == billions
