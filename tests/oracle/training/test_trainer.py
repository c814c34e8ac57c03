"""The same training keys mean here what they mean to transformers' own Trainer."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from coppice_jobs import Run, job, largest_difference, random_rows, write_rows  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from training_oracle import CASES, FAMILIES, GRADIENT_TOLERANCE, LOSS_TOLERANCE, make_adapter, make_backbone, padded  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

# Seven batches an epoch: steps of three, three and one of them.
COMMON = dict(max_steps=10, per_device_train_batch_size=2, gradient_accumulation_steps=3, max_grad_norm=7.0)
ADAMW = dict(
    COMMON,
    learning_rate=2e-2,
    lr_scheduler_type="cosine",
    weight_decay=0.2,
    adam_beta1=0.8,
    adam_beta2=0.97,
    adam_epsilon=1e-4,
)
SGD = dict(
    COMMON,
    optim="sgd",
    optim_args="momentum=0.8",
    learning_rate=5e-2,
    lr_scheduler_type="constant_with_warmup",
    weight_decay=0.3,
)
WARMUP_RATIO = 0.35  # of ten steps: four


def train_with_trainer(model, train, rows, folder):
    """Its log, a line for every update; the model is trained in place."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        warmup_steps=WARMUP_RATIO,  # below one: what version 4 calls warmup_ratio
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=True,
        **train,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=padded)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("train", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_a_job_trains_as_the_trainer_does(coppice, tmp_path, train):
    backbone = make_backbone(*FAMILIES["qwen2"], tmp_path / "backbone")
    case = next(case for case in CASES if case.name == "lora")
    model = make_adapter(case, backbone, tmp_path / "start")
    rows = random_rows(seed=4)
    data = write_rows(tmp_path / "rows.jsonl", rows)
    start = str(tmp_path / "start")
    jobs = [
        job("ratio", data, {**train, "warmup_ratio": WARMUP_RATIO}, init_adapter=start),
        job("share", data, {**train, "warmup_steps": WARMUP_RATIO}, init_adapter=start),
        job("steps", data, {**train, "warmup_steps": 4}, init_adapter=start),
    ]
    run = Run(coppice, backbone, jobs, tmp_path / "run")
    log = train_with_trainer(model, train, rows, tmp_path / "trainer")

    assert largest_difference(run.curve("ratio"), [line["loss"] for line in log]) < LOSS_TOLERANCE
    assert run.curve("ratio", "grad_norm") == pytest.approx([line["grad_norm"] for line in log], rel=GRADIENT_TOLERANCE)
    assert run.curve("ratio", "learning_rate") == pytest.approx([line["learning_rate"] for line in log], rel=1e-6)
    norms = run.curve("ratio", "grad_norm")
    assert min(norms) < train["max_grad_norm"] < max(norms)  # some are clipped and some are not
    assert run.curve("share") == run.curve("ratio") == run.curve("steps")

    model.save_pretrained(tmp_path / "end")
    ours = load_file(run.adapters / "ratio" / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "end" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() < GRADIENT_TOLERANCE * tensor.norm(), name
