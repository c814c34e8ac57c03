"""What the program is compared with: small random backbones made by transformers, adapters made by HF peft (bottleneck adapters,
which peft does not know, by the module below) and a plain torch training loop."""

import dataclasses
import json
import math

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from coppice_jobs import VOCABULARY

transformers.utils.logging.disable_progress_bar()

LOSS_TOLERANCE = 1e-4  # nats
LOG_PROBABILITY_TOLERANCE = 1e-4  # nats
GRADIENT_TOLERANCE = 1e-3  # norm of the difference over norm, of each tensor

SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    tie_word_embeddings=False,
)
# The window is shorter than most sequences; the q/k norm of Qwen3 is over a head_dim that is not hidden / heads.
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "llama-tied": (transformers.LlamaConfig, dict(tie_word_embeddings=True)),
    "mistral": (transformers.MistralConfig, dict(sliding_window=7)),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, dict(head_dim=16)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with its keys; needs: what a backbone's embeddings must be."""

    name: str
    peft_type: str
    keys: dict = dataclasses.field(hash=False)
    needs: str = "any"

    def fits(self, family):
        tied = FAMILIES[family][1].get("tie_word_embeddings", False)
        return self.needs in ("any", "tied" if tied else "untied")


CASES = [
    Case("lora", "LORA", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    Case("lora-ends", "LORA", dict(r=3, lora_alpha=6, target_modules=["embed_tokens", "lm_head"]), "untied"),
    Case("lora-embedding", "LORA", dict(r=3, lora_alpha=6, target_modules=["embed_tokens", "v_proj"]), "tied"),
    Case("lora-head", "LORA", dict(r=3, lora_alpha=6, target_modules=["o_proj", "lm_head"]), "tied"),
    Case(
        "rslora",
        "LORA",
        dict(
            r=4,
            lora_alpha=3,
            use_rslora=True,
            target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 7},
            alpha_pattern={"v_proj": 5},
        ),
    ),
    Case("ia3", "IA3", dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    Case("prefix", "PREFIX_TUNING", dict(num_virtual_tokens=5)),
    Case("prompt", "PROMPT_TUNING", dict(num_virtual_tokens=4)),
    Case("houlsby", "BOTTLENECK", dict(mh_adapter=True, output_adapter=True, bottleneck_size=6, non_linearity="swish")),
    Case("pfeiffer", "BOTTLENECK", dict(mh_adapter=False, output_adapter=True, bottleneck_size=5, non_linearity="relu")),
]
FAMILY_CASES = [(family, case) for family in FAMILIES for case in CASES if case.fits(family)]


def random_values(module, scale, generator):
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def make_backbone(config_class, keys, folder, seed=3):
    """Norms and biases are far from one and zero too, so that no part of the model is without effect."""
    model = transformers.AutoModelForCausalLM.from_config(config_class(**{**SIZES, **keys}), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(0.25 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder)
    return folder


def load_backbone(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


class BottleneckModel(torch.nn.Module):
    """y + U f(D y + d) + u on what the attention or the MLP of a layer gives, before the residual (proto/README.md)."""

    FUNCTIONS = {"relu": torch.relu, "swish": torch.nn.functional.silu}
    CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

    def __init__(self, backbone, keys):
        super().__init__()
        self.backbone, self.keys = backbone.requires_grad_(False), keys
        self.function = self.FUNCTIONS[keys["non_linearity"]]
        self.places = {}  # path of the sub-layer: its two linear maps
        hidden, size = backbone.config.hidden_size, keys["bottleneck_size"]
        for number, layer in enumerate(backbone.model.layers):
            for key, part in (("mh_adapter", "self_attn"), ("output_adapter", "mlp")):
                if keys[key]:
                    maps = torch.nn.ModuleDict({"down": torch.nn.Linear(hidden, size), "up": torch.nn.Linear(size, hidden)})
                    self.places[f"model.layers.{number}.{part}"] = maps
                    getattr(layer, part).register_forward_hook(self.hook(maps))
        self.adapters = torch.nn.ModuleList(self.places.values())

    def hook(self, maps):
        def forward(module, inputs, output):
            rows = output[0] if isinstance(output, tuple) else output
            rows = rows + maps["up"](self.function(maps["down"](rows)))
            return (rows, *output[1:]) if isinstance(output, tuple) else rows

        return forward

    def forward(self, **inputs):
        return self.backbone(**inputs)

    def named_tensors(self):
        for path, maps in self.places.items():
            for name, parameter in maps.named_parameters():
                yield f"base_model.model.{path}.adapter.{name}", parameter

    def save(self, folder):
        folder.mkdir()
        (folder / self.CONFIG).write_text(json.dumps({"peft_type": "BOTTLENECK", **self.keys}))
        save_file({name: parameter.detach() for name, parameter in self.named_tensors()}, folder / self.TENSORS)

    def load(self, folder):
        saved = load_file(folder / self.TENSORS)
        own = dict(self.named_tensors())
        assert saved.keys() == own.keys()
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])
        return self


def make_adapter(case, backbone, folder, seed=5):
    """An adapter with random values, also where a method would start from zeros or ones. Writes its folder, and gives the
    model that it was written from, ready to train: peft does not load prefixes and prompts as trainable."""
    keys, model = dict(case.keys), load_backbone(backbone)
    generator = torch.Generator().manual_seed(seed)
    if case.peft_type == "BOTTLENECK":
        model = BottleneckModel(model, keys)
        random_values(model, 0.2, generator)
        model.save(folder)
        return model.eval()
    config = model.config
    if case.peft_type == "PREFIX_TUNING" and getattr(config, "head_dim", None):
        # peft does not look at head_dim by itself.
        keys.update(num_attention_heads=config.num_key_value_heads, token_dim=config.num_key_value_heads * config.head_dim)
    settings = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(case.peft_type)](task_type="CAUSAL_LM", **keys)
    model = peft.get_peft_model(model, settings)
    random_values(model, 0.5 if case.peft_type in ("PREFIX_TUNING", "PROMPT_TUNING") else 0.2, generator)
    model.save_pretrained(folder)
    return model.eval()


def load_adapter(case, backbone, folder):
    if case.peft_type == "BOTTLENECK":
        return BottleneckModel(load_backbone(backbone), case.keys).load(folder).eval()
    return peft.PeftModel.from_pretrained(load_backbone(backbone), folder).eval()


def file_tensors(model):
    """Name in an adapter file: the trainable parameter that is saved under it."""
    if isinstance(model, BottleneckModel):
        return dict(model.named_tensors())
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    by_name = {}
    for name, parameter in own.items():
        if "prompt_encoder" in name:
            name = "prompt_embeddings"
        by_name[name.replace(".default", "")] = parameter
    assert len(by_name) == len(own)
    return by_name


def first_token_is_target(case):
    return case.peft_type == "PROMPT_TUNING"  # the last virtual row predicts it


def targets(rows, case):
    first = 0 if first_token_is_target(case) else 1
    return sum(label != -100 for row in rows for label in row["labels"][first:])


def padded(rows):
    """A batch with padding on the right, as a collator of transformers makes it."""
    width = max(len(row["input_ids"]) for row in rows)

    def pad(key, value):
        return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(width) < lengths[:, None]).long()
    return dict(input_ids=pad("input_ids", 0), labels=pad("labels", -100), attention_mask=mask)


def steps_of(rows, train):
    """The micro-batches of each step, epoch after epoch; the last step of an epoch takes what is left."""
    size, accumulated = train["per_device_train_batch_size"], train["gradient_accumulation_steps"]
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    epoch = [batches[i : i + accumulated] for i in range(0, len(batches), accumulated)]
    return [epoch[step % len(epoch)] for step in range(train["max_steps"])]


@dataclasses.dataclass
class Trained:
    losses: list
    grad_norms: list
    learning_rates: list
    first_gradients: dict  # by name in the adapter's file


def train_reference(model, case, rows, train):
    """peft's model, torch's AdamW and clipping, transformers' schedule; the loss of a step is over all its targets."""
    tensors = file_tensors(model)
    parameters = list(tensors.values())
    # As transformers.Trainer groups them: biases do not decay.
    biases = [tensor for name, tensor in tensors.items() if name.endswith("bias")]
    others = [tensor for name, tensor in tensors.items() if not name.endswith("bias")]
    groups = [{"params": others, "weight_decay": train["weight_decay"]}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=train["learning_rate"])
    warmup = math.ceil(train["max_steps"] * train["warmup_ratio"])
    schedule = transformers.get_scheduler(train["lr_scheduler_type"], optimizer, warmup, train["max_steps"])
    trained = Trained([], [], [], {})
    for batches in steps_of(rows, train):
        total = targets([row for batch in batches for row in batch], case)
        loss_sum = 0.0
        for batch in batches:
            loss = model(**padded(batch), use_cache=case.peft_type == "PREFIX_TUNING", num_items_in_batch=total).loss
            loss.backward()
            loss_sum += loss.item()
        if not trained.first_gradients:
            trained.first_gradients = {name: tensor.grad.clone() for name, tensor in tensors.items()}
        norm = torch.nn.utils.clip_grad_norm_(parameters, train["max_grad_norm"])
        trained.losses.append(loss_sum)
        trained.grad_norms.append(norm.item())
        trained.learning_rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return trained


def log_probabilities(model, case, rows):
    """Of every target of each row, as the program's score gives them."""
    result = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        first = 0 if first_token_is_target(case) else 1
        length = len(row["input_ids"]) - first
        scores = torch.log_softmax(logits[-length - 1 : -1], -1).gather(1, ids[0, first:, None])[:, 0].tolist()
        result.append([score for score, label in zip(scores, row["labels"][first:]) if label != -100])
    return result
