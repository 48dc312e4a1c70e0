"""The count of tokens is that of the base's own tokenizer."""

from transformers import AutoTokenizer

from app.prompt_tokens import as_html, count
from vf_dreambooth.base_models import BaseModel, resolve

BASE = resolve("starter")


def test_a_long_prompt_shows_what_is_cut():
    tokenizer = AutoTokenizer.from_pretrained(f"{BASE.location}/tokenizer")
    most = tokenizer.model_max_length - 2  # without the marks of begin and end
    words = ["dog"] * most + ["<snow>", "beach"]
    total, read, cut = count(" ".join(words), BASE)
    assert (read, cut) == (most, "<snow> beach")
    assert total == len(tokenizer(" ".join(words))["input_ids"]) - 2
    assert "<s>&lt;snow&gt; beach</s>" in as_html(" ".join(words), BASE)
    assert count("a dog", BASE)[2] == ""
    assert count("", BASE) == (0, most, "")


def test_a_base_that_is_not_on_this_disk_is_not_counted():
    assert count("a dog", BaseModel("someone/else", "someone/else", None, BASE.preset)) is None
    assert as_html("a dog", BaseModel("someone/else", "someone/else", None, BASE.preset)) == ""
