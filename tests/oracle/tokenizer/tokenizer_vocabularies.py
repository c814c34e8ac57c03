"""Small vocabularies of the kinds that the backbones use, trained here: the configurations around them (normalizer,
pre-tokenizer, post-processor, decoder, flags of the model) are those of the published tokenizer.json files."""

import json
import pathlib
import sysconfig

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
NEMO_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Every property of an added token, alone and together; contents that contain, begin or end one another; one that the normal
# forms touch; one of spaces; words that the vocabulary has.
CORNER_TOKENS = [
    AddedToken("<corner>", normalized=False),
    AddedToken("<corner><end>", normalized=False, special=True),
    AddedToken("<end>", normalized=True),
    AddedToken("<left>", lstrip=True, normalized=False),
    AddedToken("<right>", rstrip=True, normalized=False),
    AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
    AddedToken("<word>", single_word=True, normalized=False),
    AddedToken("word", single_word=True, normalized=True),
    AddedToken("<all>", single_word=True, lstrip=True, rstrip=True, normalized=False, special=True),
    AddedToken("caf\u00e9", normalized=True),
    AddedToken("A\u030angstr\u00f6m", normalized=False),
    AddedToken("   ", normalized=False),
    AddedToken("\u2581\u2581deep", normalized=True),
    AddedToken("self", normalized=False),
    AddedToken("\U0001f600\U0001f600", normalized=True),
    AddedToken("\r", normalized=False),
]


def corpus():
    """About two million characters of the Python library's own sources, and of other scripts."""
    sources = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text, size = [], 0
    for source in sources:
        piece = source.read_text(encoding="utf-8", errors="replace")
        text.append(piece)
        size += len(piece)
        if size > 2_000_000:
            break
    scripts = [(0x00C0, 0x17F), (0x0391, 0x3C9), (0x0410, 0x44F), (0x05D0, 0x5EA), (0x0621, 0x64A), (0x0905, 0x939)]
    scripts += [(0x0E01, 0x0E30), (0x3041, 0x3096), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0x1F600, 0x1F64F)]
    for first, last in scripts:
        letters = [chr(c) for c in range(first, last + 1)]
        for i in range(0, len(letters) - 4):
            text.append("".join(letters[i : i + 3]) + " " + "".join(letters[i : i + 4]))
    return [line for piece in text for line in piece.split("\n")]


def byte_level(split, prefix_space=False, use_regex=False):
    steps = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=use_regex))
    return pre_tokenizers.Sequence(steps)


def train_byte_level(lines, split, specials, size=3000):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(split)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return json.loads(tokenizer.to_str())


def train_byte_fallback(lines, size=3000):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Words run together, so that merges cross spaces as they do in vocabularies of SentencePiece.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(split=False), pre_tokenizers.Split(Regex(r".{1,14}"), "isolated")]
    )
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, limit_alphabet=500, show_progress=False)
    )
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = trained["added_tokens"][:3]
    return trained


def template(token, token_id, end=None, end_id=None):
    around = f"{token} $A" + (f" {end}" if end else "")
    special = [(token, token_id)] + ([(end, end_id)] if end else [])
    return processors.TemplateProcessing(single=around, pair=f"{around} $B:1", special_tokens=special)


def parts(**components):
    """The JSON of components, as the tokenizers package writes it."""
    shell = Tokenizer(models.BPE())
    for name, component in components.items():
        setattr(shell, name, component)
    written = json.loads(shell.to_str())
    return {key: written[key] for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}


def assemble(trained, corner_tokens=True, merges_as_text=False, model=None, **components):
    """A tokenizer.json. merges_as_text: in the older form, "a b" instead of ["a", "b"]."""
    result = dict(trained, **parts(**components))
    result["model"] = dict(trained["model"], **(model or {}))
    if merges_as_text:
        result["model"]["merges"] = [" ".join(merge) for merge in result["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(result))
    if corner_tokens:
        tokenizer.add_tokens(CORNER_TOKENS)
    written = json.loads(tokenizer.to_str())
    if merges_as_text:
        written["model"]["merges"] = result["model"]["merges"]
    return written


def metaspace_decoder():
    return decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def build_all():
    lines = corpus()
    fallback = train_byte_fallback(lines)
    llama3 = train_byte_level(lines, LLAMA3_SPLIT, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    qwen = train_byte_level(lines, QWEN_SPLIT, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    bos = template("<s>", 1)
    old_normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    no_fallback = {"byte_fallback": False}

    def metaspace(scheme, split):
        return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)

    return {
        "llama2": assemble(
            fallback, normalizer=old_normalizer, post_processor=bos, decoder=metaspace_decoder(), merges_as_text=True
        ),
        "llama2_metaspace": assemble(
            fallback, pre_tokenizer=metaspace("first", False), post_processor=bos, decoder=metaspace_decoder()
        ),
        "mistral": assemble(
            fallback,
            pre_tokenizer=metaspace("first", False),
            post_processor=template("<s>", 1, "</s>", 2),
            decoder=metaspace_decoder(),
            model={"fuse_unk": False, "ignore_merges": True},
        ),
        "metaspace_words": assemble(
            fallback, pre_tokenizer=metaspace("always", True), decoder=decoders.Metaspace(), model=no_fallback
        ),
        "unknown_apart": assemble(
            fallback,
            pre_tokenizer=metaspace("never", True),
            decoder=decoders.Metaspace(prepend_scheme="never"),
            model={"byte_fallback": False, "fuse_unk": False},
        ),
        "unknown_dropped": assemble(
            fallback,
            normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(r"[\p{P}\p{S}]"), "merged_with_previous"), metaspace("first", True)]
            ),
            model={"byte_fallback": False, "unk_token": None},
        ),
        "llama3": assemble(
            llama3,
            pre_tokenizer=byte_level(LLAMA3_SPLIT),
            post_processor=processors.Sequence([processors.ByteLevel(trim_offsets=True), template("<|begin_of_text|>", 0)]),
            decoder=decoders.ByteLevel(),
            model={"ignore_merges": True},
        ),
        "qwen2": assemble(
            qwen,
            normalizer=normalizers.NFC(),
            pre_tokenizer=byte_level(QWEN_SPLIT),
            post_processor=processors.ByteLevel(trim_offsets=False),
            decoder=decoders.ByteLevel(),
            merges_as_text=True,
        ),
        "nemo": assemble(
            llama3,
            normalizer=normalizers.NFKD(),
            pre_tokenizer=byte_level(NEMO_SPLIT),
            post_processor=template("<|begin_of_text|>", 0),
            decoder=decoders.ByteLevel(),
        ),
        "gpt2_digits": assemble(
            qwen,
            normalizer=normalizers.NFD(),
            pre_tokenizer=pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.Split(Regex(r"[\w&&[^\d_]]+|\p{Han}|\W(?=\s)"), "contiguous", invert=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
                ]
            ),
            decoder=decoders.ByteLevel(),
        ),
    }
