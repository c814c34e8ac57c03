"""Varied lines of text from a seed, as bytes without newlines: code, scripts, emoji, controls, long runs, added tokens, and
bytes that are not UTF-8."""

import random

SPACES = [chr(c) for c in (0x09, 0x0B, 0x0C, 0x0D, 0x20, 0x20, 0x20, 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x2029, 0x3000)]
RANGES = [
    (0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x700, 0x1FFF), (0x2000, 0x2BFF),
    (0x2C00, 0x2FFF), (0x3000, 0x33FF), (0x3400, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7FF), (0xE000, 0xFAFF),
    (0xFB00, 0xFFFF), (0x10000, 0x11FFF), (0x12000, 0x1BFFF), (0x1D000, 0x1D7FF), (0x1E000, 0x1FAFF), (0x1FB00, 0x1FFFF),
    (0x20000, 0x323AF), (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF),
]  # fmt: skip
MARKS = [chr(c) for c in list(range(0x300, 0x370)) + list(range(0x591, 0x5C0)) + [0x93C, 0x94D, 0x3099, 0x1DF5, 0x1ABF, 0x89C]]
EMOJI = ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001f1e9\U0001f1ea", "\U0001f600", "\u0023\ufe0f\u20e3"]
CONTRACTIONS = ["'s", "'S", "'t", "'Re", "'VE", "'m", "'LL", "'d", "'\u017f", "\u2019s", "'\u212a", "'l", "'v", "'st", "'\ufb05"]
DIGITS = ["0", "1", "9", "12", "345", "6789", "\u0663", "\u0967", "\u00bd", "\u2167", "\U0001d7d9", "\uff19", "\u4e09"]
TOKENS = [
    "<corner>", "<corner><end>", "<end>", "<left>", "<right>", "<both>", "<word>", "word", "words", "<all>", "caf\u00e9", "cafe\u0301",
    "A\u030angstr\u00f6m", "\u00c5ngstr\u00f6m", "   ", "\u2581\u2581deep", "self", "\U0001f600\U0001f600", "<s>", "</s>", "<unk>", "<0x41>", "\r",
    "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|endoftext|>", "<", "<corner", "\u2581",
]  # fmt: skip


def character(rng):
    first, last = rng.choice(RANGES)
    return chr(rng.randint(first, last))


def piece(rng, source):
    kind = rng.randrange(12)
    if kind <= 2:
        return rng.choice(source)[:200]
    if kind == 3:
        return "".join(character(rng) for _ in range(rng.randint(1, 20)))
    if kind == 4:
        first, last = rng.choice(RANGES)
        return "".join(chr(rng.randint(first, min(last, first + 200))) for _ in range(rng.randint(1, 20)))
    if kind == 5:
        return "".join(rng.choice("aeoAcCqΩかम가") + "".join(rng.choices(MARKS, k=rng.randint(0, 4))) for _ in range(8))
    if kind == 6:
        return "".join(rng.choice(EMOJI + SPACES) for _ in range(rng.randint(1, 8)))
    if kind == 7:
        return "".join(chr(rng.choice([c for c in range(0xA0) if c != 0x0A])) for _ in range(rng.randint(1, 12)))
    if kind == 8:
        return "".join(rng.choices(SPACES, k=rng.randint(1, 12)))
    if kind == 9:
        return "".join(rng.choice(["I", "we", "x"]) + rng.choice(CONTRACTIONS) + rng.choice(["", " ", "s"]) for _ in range(4))
    if kind == 10:
        return "".join(rng.choices(DIGITS + [" ", ".", ","], k=rng.randint(1, 12)))
    joints = ["", "", " ", "  ", "a", "_", "\t", "\u00a0", ".", "1", "\u0301", "\u0897", "\u200d"]
    return "".join(rng.choice(TOKENS) + rng.choice(joints) for _ in range(rng.randint(1, 8)))


def run(rng):
    unit = rng.choice([" ", "a", "=", "ab", "\t", "0", "\u2581", "\u00e9", "\u4e2d", "\U0001f600", "\u0301", "<end>", "'s", character(rng)])
    return unit * rng.choice([2, 3, 31, 32, 33, 64, 257, 1000, 5000])


def invalid(rng, source):
    data = bytearray(piece(rng, source).encode())
    for _ in range(rng.randint(1, 6)):
        bad = rng.choice([b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80", b"\xe0\x80\x80"])
        at = rng.randint(0, len(data))
        data[at:at] = bad
    return bytes(data)


def make_lines(seed, count, source):
    rng = random.Random(seed)
    source = [line for line in source if line.strip()]
    lines = []
    while len(lines) < count:
        choice = rng.randrange(40)
        if choice == 0:
            line = run(rng).encode()
        elif choice == 1:
            line = invalid(rng, source)
        elif choice == 2:
            line = b""
        else:
            line = "".join(piece(rng, source) for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 5]))).encode()
        lines.append(line.replace(b"\n", b" "))
    return lines


def every_character():
    """Each character between letters, digits, punctuation, marks and a token that may not touch a word."""
    planes = list(range(0x20000)) + list(range(0x2EB00, 0x2EF00)) + list(range(0x2F800, 0x2FA20))
    planes += list(range(0x31300, 0x32400)) + list(range(0xE0000, 0xE0200))
    lines, line = [], []
    for code in planes:
        if 0xD800 <= code < 0xE000 or code == 0x0A:
            continue
        c = chr(code)
        line.append(f"x{c}1{c}{c}. {c}'{c}<word>a{c}\u0323\u0301{c}<word>")
        if len(line) == 40:
            lines.append("".join(line).encode())
            line = []
    lines.append("".join(line).encode())
    return lines
