"""Fine-tune a transformers model with PEFT, Trainer and Adaptive Vector Freezing. `python -m docs.tutorial_peft`"""

import peft
import torch
from transformers import Trainer, TrainingArguments

import vectorfit.peft
from docs.tutorial_core import STEPS, accuracy, sentences, small_bert, train
from vectorfit.transformers import AVFCallback


def main() -> dict[str, float]:
    base = small_bert()
    train(base, list(base.parameters()), task=0, rate=3e-3)
    weights = {name: value.clone() for name, value in base.state_dict().items()}

    model = peft.get_peft_model(base, vectorfit.peft.VectorFitConfig(task_type="SEQ_CLS"))
    model.print_trainable_parameters()
    words, labels = sentences(64 * STEPS, task=1, seed=2)
    arguments = TrainingArguments(
        "runs/tutorial/trainer",
        per_device_train_batch_size=64,
        num_train_epochs=1,
        learning_rate=2e-2,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
    )
    rows = [{"input_ids": x, "labels": y} for x, y in zip(words, labels, strict=True)]
    # Without a schedule the callback uses the paper's guideline for the length of the run.
    Trainer(model, arguments, train_dataset=rows, callbacks=[AVFCallback(top_k=2)]).train()
    model = model.to("cpu")
    accuracies = {"second task, after": accuracy(model, 1)}

    model.save_pretrained("runs/tutorial/even")
    with model.disable_adapter():
        accuracies["first task, disabled"] = accuracy(model, 0)
    fresh = small_bert()
    fresh.load_state_dict(weights)
    loaded = peft.PeftModel.from_pretrained(fresh, "runs/tutorial/even")
    accuracies["second task, loaded"] = accuracy(loaded, 1)
    accuracies["second task, merged"] = accuracy(loaded.merge_and_unload(safe_merge=True), 1)
    return accuracies


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, value in main().items():
        print(f"{name:22} {value:.1%}")
