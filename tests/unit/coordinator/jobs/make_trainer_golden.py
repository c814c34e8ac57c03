"""Writes trainer_golden.json: the fields of transformers.TrainingArguments with their defaults, and the step counts that its
Trainer computes, for batching_test.cc and train_arguments_test.cc. Run it with transformers 5.23: python make_trainer_golden.py
"""

import dataclasses
import enum
import json
import pathlib
import types

import torch
import transformers
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback, TrainerControl, TrainerState


def plain(value):
    return value.value if isinstance(value, enum.Enum) else value


def defaults():
    found = {}
    for field in dataclasses.fields(TrainingArguments):
        missing = field.default is dataclasses.MISSING
        found[field.name] = plain(field.default_factory() if missing else field.default)
    return found


def steps(size, batch, accumulation, epochs, max_steps, eval_steps):
    """What Trainer.set_initial_training_values and the flow of its callbacks make of one choice of arguments."""
    args = TrainingArguments(
        output_dir="unused", use_cpu=True, per_device_train_batch_size=batch, num_train_epochs=epochs, max_steps=max_steps,
        gradient_accumulation_steps=accumulation, eval_strategy="steps" if eval_steps else "epoch", eval_steps=eval_steps,
    )
    loader = torch.utils.data.DataLoader(list(range(size)), batch_size=batch)
    trainer = types.SimpleNamespace(
        get_total_train_batch_size=lambda args: batch * accumulation, get_sp_size=lambda: 1,
        num_examples=lambda loader: len(loader.dataset),
    )
    num_epochs, per_epoch, _, _, _, batches, total = Trainer.set_initial_training_values(trainer, args, loader)
    # The loops of Trainer._inner_training_loop and _run_epoch, without the model.
    state, flow, plan, evaluated = TrainerState(max_steps=total), DefaultFlowCallback(), [], []
    state.compute_steps(args, total)
    for epoch in range(num_epochs):
        control, rows = TrainerControl(), list(loader)
        for update in range(per_epoch):
            part = rows[update * accumulation : (update + 1) * accumulation]
            state.global_step += 1
            state.epoch = epoch + min((update + 1) * accumulation, batches) / batches
            plan.append([state.epoch, sum(len(batch) for batch in part)])
            control = flow.on_step_end(args, state, TrainerControl())
            if control.should_evaluate:
                evaluated.append(state.global_step)
            if control.should_training_stop:
                break
        if flow.on_epoch_end(args, state, TrainerControl()).should_evaluate:
            evaluated.append(state.global_step)
        if control.should_training_stop:
            break
    assert state.global_step == total
    return {
        "size": size, "batch": batch, "accumulation": accumulation, "epochs": epochs, "max_steps": max_steps,
        "eval_steps": eval_steps, "steps_per_epoch": per_epoch, "total_steps": total,
        "epoch_and_sequences": plan, "evaluated": evaluated,
    }


CHOICES = [
    (1, 8, 1, 3, -1, None), (7, 8, 1, 1, -1, 1), (8, 8, 1, 2, -1, 1), (9, 8, 1, 2, -1, 2), (16, 4, 2, 1.5, -1, None),
    (17, 4, 2, 1.5, -1, 3), (10, 2, 4, 2, -1, None), (10, 2, 4, 0.3, -1, 0.5), (10, 3, 2, 2.7, -1, 0.3), (5, 1, 3, 1, -1, None),
    (10, 3, 1, 3, 7, 2), (10, 3, 2, 3, 7, None), (3, 8, 4, 3, 5, 0.25), (100, 7, 3, 0.01, -1, 10), (33, 8, 1, 2.25, -1, None),
]

if __name__ == "__main__":
    golden = {"transformers": transformers.__version__, "defaults": defaults(), "steps": [steps(*choice) for choice in CHOICES]}
    # One line for each choice: short enough to read, and a change shows where it is.
    lines = ",\n".join("  " + json.dumps(choice) for choice in golden.pop("steps"))
    text = json.dumps(golden, indent=1)[:-2] + ',\n "steps": [\n' + lines + "\n ]\n}\n"
    pathlib.Path(__file__).with_name("trainer_golden.json").write_text(text)
