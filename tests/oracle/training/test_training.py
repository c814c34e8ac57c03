"""Jobs of every method train as HF peft and torch train them, from an adapter that peft made, and end with one that peft loads.

All methods of a family are jobs of one run. Beside each there is one of a single step of plain gradient descent with a learning
rate of one, whose adapter is the start less the gradient.
"""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from coppice_jobs import Run, job, largest_difference, random_rows, score, write_rows  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from training_oracle import (  # noqa: E402
    CASES,
    FAMILIES,
    FAMILY_CASES,
    GRADIENT_TOLERANCE,
    LOG_PROBABILITY_TOLERANCE,
    LOSS_TOLERANCE,
    load_adapter,
    log_probabilities,
    make_adapter,
    make_backbone,
    train_reference,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# 14 rows: three steps of four rows and one of two in an epoch. The clip is lower than most norms.
TRAIN = dict(
    max_steps=10,
    learning_rate=1e-2,
    lr_scheduler_type="linear",
    warmup_ratio=0.25,
    weight_decay=0.1,
    max_grad_norm=0.5,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
)
DESCENT = {
    **TRAIN,
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
}


class FamilyRun:
    """A backbone, an adapter of each method that fits it, and the run of their jobs."""

    def __init__(self, coppice, family, folder):
        self.folder = folder
        self.backbone = make_backbone(*FAMILIES[family], folder / "backbone")
        self.rows, self.unseen = random_rows(seed=1), random_rows(seed=2, count=6, longest=40)
        data = write_rows(folder / "rows.jsonl", self.rows)
        self.unseen_data = write_rows(folder / "unseen.jsonl", self.unseen)
        self.models, self.references, jobs = {}, {}, []
        for case in CASES:
            if not case.fits(family):
                continue
            self.models[case.name] = make_adapter(case, self.backbone, self.start(case))
            start = str(self.start(case))
            jobs.append(job(case.name, data, TRAIN, self.unseen_data, init_adapter=start))
            jobs.append(job(f"{case.name}-gradient", data, DESCENT, init_adapter=start))
        self.run = Run(coppice, self.backbone, jobs, folder / "run")

    def start(self, case):
        return self.folder / case.name

    def reference(self, case):
        if case.name not in self.references:
            self.references[case.name] = train_reference(self.models.pop(case.name), case, self.rows, TRAIN)
        return self.references[case.name]


@pytest.fixture(scope="module")
def run_of(coppice, tmp_path_factory):
    """The run of a family, made when it is first asked for."""
    runs = {}

    def get(family):
        if family not in runs:
            runs[family] = FamilyRun(coppice, family, tmp_path_factory.mktemp(family))
        return runs[family]

    return get


def id_of(value):
    return value if isinstance(value, str) else value.name


every_case = pytest.mark.parametrize("family, case", FAMILY_CASES, ids=id_of)


@every_case
def test_ten_steps_have_the_losses_of_peft_and_torch(run_of, family, case):
    family_run = run_of(family)
    run, theirs = family_run.run, family_run.reference(case)
    assert largest_difference(run.curve(case.name), theirs.losses) < LOSS_TOLERANCE
    assert run.curve(case.name, "learning_rate") == pytest.approx(theirs.learning_rates, rel=1e-6)
    assert run.curve(case.name, "grad_norm") == pytest.approx(theirs.grad_norms, rel=GRADIENT_TOLERANCE)
    # The comparison says something only if the adapter moves and the clip is used.
    assert max(theirs.losses) - min(theirs.losses) > 0.01
    assert max(theirs.grad_norms) > TRAIN["max_grad_norm"]


@every_case
def test_gradients_are_those_of_torch(run_of, family, case):
    family_run = run_of(family)
    theirs = family_run.reference(case).first_gradients
    start = load_file(family_run.start(case) / "adapter_model.safetensors")
    end = load_file(family_run.run.adapters / f"{case.name}-gradient" / "adapter_model.safetensors")
    assert end.keys() == theirs.keys()
    for name, gradient in theirs.items():
        ours = start[name].double() - end[name].double()
        assert ours.shape == gradient.shape, name
        norm = gradient.double().norm()
        assert norm > 0, name
        assert (ours - gradient).norm() < GRADIENT_TOLERANCE * norm, name


@every_case
def test_the_export_gives_the_same_evaluation_in_peft(run_of, family, case):
    family_run = run_of(family)
    model = load_adapter(case, family_run.backbone, family_run.run.adapters / case.name)
    scores = [score for row in log_probabilities(model, case, family_run.unseen) for score in row]
    assert abs(family_run.run.eval_loss(case.name) + sum(scores) / len(scores)) < LOSS_TOLERANCE


@every_case
def test_the_export_gives_the_same_log_probabilities_in_peft(coppice, run_of, family, case):
    family_run = run_of(family)
    adapter = family_run.run.adapters / case.name
    output = family_run.folder / f"{case.name}-scores.jsonl"
    ours = score(coppice, family_run.backbone, adapter, family_run.unseen_data, output)
    theirs = log_probabilities(load_adapter(case, family_run.backbone, adapter), case, family_run.unseen)
    for one, other in zip(ours, theirs, strict=True):
        assert largest_difference(one, other) < LOG_PROBABILITY_TOLERANCE


def test_every_method_is_compared():
    assert {case.peft_type for case in CASES} == {"LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING", "BOTTLENECK"}
