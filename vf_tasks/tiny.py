"""Tiny models with random weights and a few rows of each form of data: every recipe can be tried on any machine.

They are written to files and read as real ones are. The scores of such a run mean nothing.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from transformers import ViTImageProcessorPil as ImageProcessor

from vectorfit import VectorFitError

from .recipe import Recipe

ROWS = 16
VOCABULARY = 256
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "deberta-v3": {"model_type": "deberta-v2", **SIZES, "relative_attention": True, "position_buckets": 8}
    | {"pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "bart": {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24}
    | {
        "decoder_ffn_dim": 24,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 96,
    },
    "vit": {"model_type": "vit", **SIZES, "image_size": 16, "patch_size": 8},
    "gemma": {"model_type": "gemma", **SIZES, "num_key_value_heads": 1, "head_dim": 8},
    "llama": {"model_type": "llama", **SIZES, "num_key_value_heads": 1},
}
FRAME = {"text_classification": AutoModel, "question_answering": AutoModel, "image_classification": AutoModel}
FRAME |= {"summarization": AutoModelForSeq2SeqLM, "maths": AutoModelForCausalLM}


def write_model(recipe: Recipe, folder: Path) -> None:
    """Writes a tiny model of the recipe's architecture with random weights, and its tokenizer or image processor."""
    known = next((values for name, values in ARCHITECTURES.items() if name in recipe.model.lower()), None)
    if known is None:
        raise VectorFitError(f"tiny: no tiny model like {recipe.model!r}, expected one of {', '.join(ARCHITECTURES)}")
    values = dict(known)
    if recipe.kind == "image_classification":
        ImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    else:
        tokenizer = _tokenizer(cls="deberta" in recipe.model or "bart" in recipe.model)
        tokenizer.save_pretrained(folder)
        values |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        values |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        values |= {"decoder_start_token_id": tokenizer.sep_token_id, "forced_eos_token_id": None}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        FRAME[recipe.kind].from_config(config).save_pretrained(folder)


def _tokenizer(cls: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the tiny rows; `cls` puts [CLS] and [SEP] around a text, as the real model's tokenizer does."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY + 64, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bare.train_from_iterator([f"{QUESTION} {PASSAGE}"], trainer)
    if cls:
        ends = [(token, bare.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        bare.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    tokens = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="[CLS]", eos_token="[SEP]", **tokens)


QUESTION = "How many vectors are frozen?"
PASSAGE = "Now and then five vectors are frozen, so that the others catch up. The answer is in the middle of it."


def write_data(recipe: Recipe, folder: Path) -> None:
    """Writes rows of the recipe's kind for training and scoring, in the usual files of such data."""
    _WRITERS[recipe.kind](recipe, folder)


def _first(column: str) -> str:
    return column.split("|")[0]


def _splits(recipe: Recipe) -> list[str]:
    return [recipe.train_split, *recipe.test_splits]


def _text(recipe: Recipe, folder: Path) -> None:
    columns = [_first(column) for column in (*recipe.input_columns, recipe.target_column)]
    for split in _splits(recipe):
        lines = ["\t".join(columns)]
        for row in range(ROWS):
            target = recipe.labels[row % len(recipe.labels)] if recipe.labels else f"{5 * row / ROWS:.2f}"
            lines.append("\t".join([f"{PASSAGE[row:]} {row}"] * len(recipe.input_columns) + [target]))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _questions(recipe: Recipe, folder: Path) -> None:
    for split in _splits(recipe):
        questions: list[dict[str, Any]] = []
        for row in range(ROWS):
            words = PASSAGE.split()[row % 8]
            answers = [{"text": words, "answer_start": PASSAGE.index(words)}]
            empty = recipe.metric == "squad_v2" and row % 2 == 1
            questions.append({"id": str(row), "question": QUESTION, "answers": [] if empty else answers})
        article = {"paragraphs": [{"context": PASSAGE, "qas": questions}]}
        (folder / f"{split}.json").write_text(json.dumps({"data": [article]}), encoding="utf-8")


def _json_lines(recipe: Recipe, folder: Path) -> None:
    answers = {"gsm8k": "Two and {0}.\n#### {0}", "math": "Thus \\boxed{{{0}}}.", "rouge": "Frozen are {0}."}
    for split in _splits(recipe):
        rows = [
            {
                _first(recipe.input_columns[0]): f"{PASSAGE} {row}",
                _first(recipe.target_column): answers[recipe.metric].format(row),
            }
            for row in range(ROWS)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _pictures(recipe: Recipe, folder: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (ROWS, 3), np.uint8)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for split in _splits(recipe):
            for row, colour in enumerate(colours):
                with archive.open(f"{split}/{'light' if colour.mean() > 127 else 'dark'}/{row}.png", "w") as file:
                    Image.fromarray(np.tile(colour, (12, 12, 1))).save(file, "PNG")


_WRITERS: dict[str, Callable[[Recipe, Path], None]] = {
    "text_classification": _text,
    "question_answering": _questions,
    "summarization": _json_lines,
    "maths": _json_lines,
    "image_classification": _pictures,
}
