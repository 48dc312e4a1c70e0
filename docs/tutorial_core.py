"""Fine-tune a transformers model with the core library alone. `python -m docs.tutorial_core`

A small BERT learns one task with all its weights, then another one with its singular values and biases. For your own
model, replace the first part by `AutoModelForSequenceClassification.from_pretrained(...)`.
"""

import torch
from transformers import BertConfig, BertForSequenceClassification

import vectorfit as vf

WORDS, LENGTH, STEPS = 16, 12, 150


def sentences(count: int, task: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random sentences. Task 0: are most words from the first half of the vocabulary? Task 1: are most words even?"""
    words = torch.randint(WORDS, (count, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    counted = words < WORDS // 2 if task == 0 else words % 2 == 0
    return words, (counted.sum(1) > LENGTH // 2).long()


def small_bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, max_position_embeddings=16, **sizes))


def accuracy(model: torch.nn.Module, task: int) -> float:
    words, labels = sentences(1000, task, seed=1)
    with torch.no_grad():
        return float((model.eval()(words).logits.argmax(-1) == labels).float().mean())


def train(model, parameters, task: int, rate: float, avf=None) -> None:
    words, labels = sentences(64 * STEPS, task, seed=2)
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    for step, (x, y) in enumerate(zip(words.split(64), labels.split(64), strict=True), start=1):
        model.train()(x, labels=y).loss.backward()
        if avf:
            avf.step(step)  # after backward, before clipping and the optimizer
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> dict[str, float]:
    model = small_bert()
    train(model, list(model.parameters()), task=0, rate=3e-3)
    accuracies = {"first task": accuracy(model, 0), "second task, before": accuracy(model, 1)}

    print(vf.inject(model, vf.VectorFitConfig(modules_to_save=("classifier",))))
    schedule = vf.avf_schedule(total_steps=STEPS)
    avf = vf.AdaptiveVectorFreezing(model, **vars(schedule), top_k=2)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    train(model, trained, task=1, rate=2e-2, avf=avf)
    accuracies["second task, after"] = accuracy(model, 1)

    vf.save_vectors(model, "runs/tutorial/even.safetensors", base_model="small-bert")
    with vf.disabled(model):  # exactly the base
        accuracies["first task, disabled"] = accuracy(model, 0)
    vf.remove(model)
    vf.load_vectors(model, "runs/tutorial/even.safetensors")  # verified against the base's weights
    accuracies["second task, loaded"] = accuracy(model, 1)
    return accuracies


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:22} {value:.1%}")
