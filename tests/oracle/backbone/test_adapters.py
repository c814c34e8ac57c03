"""`coppice score --adapter` and `coppice generate --adapter` with adapters that peft made, of every kind that peft knows."""

import json

import pytest
import torch
from backbones import VOCABULARY, Variant, build, reference, write_tokenizer
from test_log_probabilities import TOLERANCE, largest_difference, random_sequences, score, write_rows

peft = pytest.importorskip("peft")

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=3, lora_alpha=7, target_modules=ALL, task_type="CAUSAL_LM"),
    "lora-ends": lambda: peft.LoraConfig(r=3, target_modules=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
}


@pytest.fixture(params=CONFIGS)
def adapted(request, tmp_path):
    """A backbone's folder, an adapter's folder, and the model of peft with both."""
    backbone = build(Variant("qwen2", "qwen2"), tmp_path / "backbone")
    torch.manual_seed(3)
    model = peft.get_peft_model(reference(backbone), CONFIGS[request.param]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "adapter")
    return backbone, tmp_path / "adapter", model.eval()


def test_log_probabilities_are_those_of_peft(coppice, tmp_path, adapted):
    backbone, adapter, model = adapted
    sequences = random_sequences(4)
    data = write_rows(tmp_path / "data.jsonl", [{"input_ids": ids} for ids in sequences])
    rows, _ = score(coppice, backbone, data, tmp_path / "scores.jsonl", "--adapter", adapter)
    bare, _ = score(coppice, backbone, data, tmp_path / "bare.jsonl")
    for row, without, ids in zip(rows, bare, sequences):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0].float()
        virtual = logits.shape[0] - len(ids)
        # The row before a token predicts it; a virtual row before the first.
        predicted = ids if virtual else ids[1:]
        scores = torch.log_softmax(logits[-len(predicted) - 1 : -1], -1)
        expected = scores.gather(1, torch.tensor(predicted)[:, None])[:, 0].tolist()
        assert largest_difference(row["logprobs"], expected) < TOLERANCE
        assert row.get("positions") == (list(range(len(ids))) if virtual else None)
        shared = row["logprobs"][-len(without["logprobs"]) :]
        assert largest_difference(shared, without["logprobs"]) > 100 * TOLERANCE


def test_greedy_text_is_that_of_peft(coppice, adapted):
    backbone, adapter, model = adapted
    tokenizer = write_tokenizer(backbone)
    config = json.loads((backbone / "config.json").read_text())
    prompt = "a thing"
    ids = tokenizer.encode(prompt).ids
    with torch.no_grad():
        whole = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=config["eos_token_id"],
            pad_token_id=len(VOCABULARY) - 1,
        )[0].tolist()
    expected = tokenizer.decode(whole)[len(tokenizer.decode(ids)) :]
    text = coppice.output_of(
        "generate", "--backbone", backbone, "--adapter", adapter, "--prompt", prompt, "--max-new-tokens", 20
    )
    assert text == expected + "\n"
