"""Decoders of Llama's and Gemma's architecture, small, on GSM8K: `python -m benchmarks.decoders`

Each decoder is made from its configuration at a small width and trained whole on one half of GSM8K's problems; then
every method trains it on the other half for the same number of updates. `--memory` prints what large decoders take, by
arithmetic on their shapes; `--check` compares that with a decoder that fits. GSM8K is read from $VECTORFIT_DATA/gsm8k.
"""

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import vectorfit as vf
from benchmarks.table import table_lines, write_table
from vectorfit import VectorFitConfig, VectorFitError
from vf_tasks.quantisation import quantise
from vf_training import methods

RESULT = Path(__file__).with_suffix(".md")
WIDTH, LAYERS, VOCABULARY, LENGTH, BATCH = 128, 3, 1024, 96, 8
SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
    "head_dim": 32,
}
ARCHITECTURES = {"Llama": ("llama", 384), "Gemma": ("gemma2", 512)}  # model type, feed-forward width
# Of the published configurations; the vocabulary's embedding is not adapted, and counts as weights.
LARGE: dict[str, dict[str, Any]] = {
    "Llama-3-8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "Gemma-7B": {
        "model_type": "gemma",
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
    },
}
MIDDLE = {  # 1.1 billion parameters
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
ADAMW = 16  # bytes of a trained number: itself, its gradient and two moments
GIB = 2**30
# Row of the table -> method, storage of factors, base.
ROWS = {
    "LoRA, r = 2": ("lora", "float32", "none"),
    "VectorFit": ("vectorfit", "float32", "none"),
    "VectorFit, square factor": ("vectorfit", "square", "none"),
    "VectorFit, bf16 factors": ("vectorfit", "bf16", "none"),
    "VectorFit, square factor, int8 base": ("vectorfit", "square", "int8"),
    "VectorFit, square factor, int4 base": ("vectorfit", "square", "int4"),
}
RATES = {"lora": 2e-3, "vectorfit": 1e-2}
NOTES = """Loss is the mean over the tokens of held-out problems, before and after the updates of each method; the
decoder was trained whole on other problems before. The rates are one guess per method, not a sweep."""


def problems() -> list[str]:
    """GSM8K's training problems with their solutions. Raises VectorFitError where they are missing."""
    path = Path(os.environ.get("VECTORFIT_DATA", "data")) / "gsm8k" / "train.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise VectorFitError(f"{path}: cannot be read ({error.strerror}); set VECTORFIT_DATA to its folder") from error
    return [f"{row['question']}\n{row['answer']}" for row in rows]


def tokenized(texts: list[str]) -> Tensor:
    """The texts as rows of tokens of a byte-level BPE that is trained on them. Shape: [n, LENGTH]."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet))
    ids = [token for encoding in bare.encode_batch(texts) for token in encoding.ids]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)


def small_decoder(architecture: str) -> nn.Module:
    """A decoder of an architecture with random weights."""
    kind, width = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL, intermediate_size=width, tie_word_embeddings=False)
    model: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model


def batches(rows: Tensor, seed: int) -> Iterator[Tensor]:
    """Endless batches of random rows."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield rows[torch.randint(len(rows), (BATCH,), generator=generator)]


def train(model: nn.Module, parameters: list[nn.Parameter], rate: float, rows: Tensor, updates: int) -> None:
    """So many updates of a model by AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    for batch in itertools.islice(batches(rows, seed=1), updates):
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def loss_on(model: nn.Module, rows: Tensor) -> float:
    model.eval()
    return float(torch.stack([model(input_ids=part, labels=part).loss for part in rows.split(BATCH)]).mean())


def table(architecture: str, rows: Tensor, pretraining: int, updates: int) -> list[list[str]]:
    """The losses of every method on one decoder."""
    half = len(rows) // 2
    first, second, held_out = rows[:half], rows[half : -2 * BATCH], rows[-2 * BATCH :]
    base = small_decoder(architecture)
    train(base, list(base.parameters()), 3e-3, first, pretraining)
    weights, found = base.state_dict(), []
    for name, (method, storage, kind) in ROWS.items():
        model = small_decoder(architecture)
        model.load_state_dict(weights)
        quantise(model, kind, ())
        before = loss_on(model, held_out)
        options = methods.Options(size=2 if method == "lora" else None, factors=storage)
        trained = methods.put_in(method, model, options)
        parameters = list(trained.parameters.values())
        train(trained.wrapped[""], parameters, RATES[method], second, updates)
        after = loss_on(trained.wrapped[""], held_out)
        count = sum(parameter.numel() for parameter in parameters)
        found.append([architecture, name, f"{count:,}", f"{before:.3f}", f"{after:.3f}"])
        print(*found[-1], flush=True)
    return found


def arithmetic(values: dict[str, Any], weight_bytes: float, storage: str) -> dict[str, float]:
    """The bytes of weights, factors and of what AdamW keeps of the vectors, by a decoder's shapes alone.

    `weight_bytes` are those of a weight of the linear layers; embeddings have two bytes a number or `weight_bytes`.
    The tail of "square" is taken as 7 % of the directions, as random weights have it.
    """
    own = dict(values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(own.pop("model_type"), **own))
    model = model.to(torch.bfloat16 if weight_bytes <= 2 else torch.float32)
    planned = vf.plan(model, VectorFitConfig(factors=storage))
    linear = sum(layer.shape[0] * layer.shape[1] for layer in planned.layers)
    tail = sum(0.07 * min(layer.shape) * max(layer.shape) * 2 for layer in planned.layers if storage == "square")
    return {
        "weights": weight_bytes * linear + max(2, weight_bytes) * (planned.num_total - linear),
        "factors": planned.factor_bytes + tail,
        "vectors and AdamW": ADAMW * planned.num_trainable,
    }


def print_memory() -> None:
    """Prints the table of large decoders."""
    kinds = {"bfloat16": 2.0, "int8": 1.0, "4 bit": 0.56}
    rows = []
    for name, values in LARGE.items():
        for base, size in kinds.items():
            for storage in ("float32", "bf16", "square"):
                parts = arithmetic(values, size, storage)
                rows.append(
                    [name, base, storage, *(f"{part / GIB:.1f}" for part in (*parts.values(), sum(parts.values())))]
                )
    print(table_lines(["model", "base", "factors", "weights", "factors", "vectors and AdamW", "together, GiB"], rows))


def check_memory(storage: str) -> None:
    """Compares the arithmetic with what a middle-sized decoder takes on this machine, in one update."""
    process = psutil.Process()
    expected = arithmetic(MIDDLE, 4.0, storage)
    own = dict(MIDDLE)
    before = process.memory_info().rss
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(own.pop("model_type"), **own))
    vf.inject(model, VectorFitConfig(factors=storage))
    held = sum(buffer.nbytes for module in model.modules() for buffer in module._buffers.values() if buffer is not None)
    held += sum(parameter.nbytes for parameter in model.parameters())
    tokens = torch.zeros(1, 8, dtype=torch.long)
    train(model, list(vf.vector_parameters(model).values()), 1e-3, tokens, 1)
    after = process.memory_info().rss - before
    told = ", ".join(f"{name} {size / GIB:.2f}" for name, size in expected.items())
    print(f"{storage}: expected {sum(expected.values()) / GIB:.2f} GiB ({told})")
    print(f"measured: {held / GIB:.2f} in tensors, before AdamW; the process took {after / GIB:.2f} more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretraining", type=int, default=2000, help="updates of the whole decoder (default 2000)")
    parser.add_argument("--updates", type=int, default=500, help="of each method (default 500)")
    parser.add_argument("--memory", action="store_true", help="print what large decoders take, then stop")
    parser.add_argument("--check", metavar="STORAGE", help="check the arithmetic on a middle-sized decoder, then stop")
    parser.add_argument("--write", action="store_true", help="write the table to decoders.md")
    flags = parser.parse_args()
    if flags.memory or flags.check:
        if flags.memory:
            print_memory()
        if flags.check:
            check_memory(flags.check)
        return
    rows = tokenized(problems())
    found = [
        row for architecture in ARCHITECTURES for row in table(architecture, rows, flags.pretraining, flags.updates)
    ]
    if flags.write:
        header = ["decoder", "method", "parameters", "loss before", "after"]
        notes = f"{NOTES}\n\n{flags.pretraining} updates of the whole decoder, {flags.updates} of each method."
        write_table(RESULT, "Small decoders on GSM8K", "python -m benchmarks.decoders --write", header, found, notes)


if __name__ == "__main__":
    main()
