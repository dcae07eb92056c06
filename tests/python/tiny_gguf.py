# SPDX-License-Identifier: Apache-2.0
"""A complete GGUF model of some 100 KB with random weights: two layers, four heads, two KV heads, one token per byte.

    tiny_gguf.model(context=4096, keys={...}, tensors={...}, version=3) -> bytes

`keys` and `tensors` replace entries, so that a test can ask for exactly one mistake. A key is (value type, packed value), a tensor
(shape, type number, data); None leaves the entry out. Vocabulary and chat tokens are those of tests/support/capture_tiny_gguf.cpp.
    tiny_gguf.parts(keys={...}) -> [bytes, bytes]       the same model split in two: PREFIX-00001-of-00002.gguf, PREFIX-00002-of-00002.gguf
"""
import struct

import numpy

UINT32, FLOAT32, BOOL, TEXT, ARRAY = 4, 6, 7, 8, 9
F32 = 0
HEADS, KV_HEADS, DIM, FFN, LAYERS, SPECIAL = 4, 2, 16, 64, 2, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def packed(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def text(value):
    return TEXT, packed(value)


def uint32(value):
    return UINT32, struct.pack("<I", value)


def array(item_type, items):
    return ARRAY, struct.pack("<IQ", item_type, len(items)) + b"".join(items)


def bools(values):
    return array(BOOL, [bytes([value]) for value in values])


def byte_characters():
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 255 and b != 173]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def default_keys(context):
    vocabulary = [*SPECIAL, *byte_characters()]
    return {
        "general.architecture": text("llama"),
        "general.name": text("tiny llama"),
        "llama.block_count": uint32(LAYERS),
        "llama.context_length": uint32(context),
        "llama.embedding_length": uint32(HEADS * DIM),
        "llama.feed_forward_length": uint32(FFN),
        "llama.attention.head_count": uint32(HEADS),
        "llama.attention.head_count_kv": uint32(KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, struct.pack("<f", 1e-5)),
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("smollm"),
        "tokenizer.ggml.tokens": array(TEXT, [packed(token) for token in vocabulary]),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", 3 if token in SPECIAL else 1) for token in vocabulary]),
        "tokenizer.ggml.merges": array(TEXT, []),
        "tokenizer.ggml.bos_token_id": uint32(1),
        "tokenizer.ggml.eos_token_id": uint32(2),
        "tokenizer.ggml.add_bos_token": (BOOL, b"\0"),
        "tokenizer.chat_template": text("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"),
    }


def default_tensors():
    generator = numpy.random.default_rng(1)
    hidden, kv_width = HEADS * DIM, KV_HEADS * DIM
    tensors = {}

    def matrix(name, inputs, outputs):
        limit = (3 / inputs) ** 0.5
        tensors[name] = (inputs, outputs), F32, generator.uniform(-limit, limit, (outputs, inputs)).astype("<f4").tobytes()

    def norm(name):
        tensors[name] = (hidden,), F32, generator.uniform(0.9, 1.1, hidden).astype("<f4").tobytes()

    matrix("token_embd.weight", hidden, len(SPECIAL) + 256)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            norm(f"blk.{layer}.{name}.weight")
        for name, inputs, outputs in (("attn_q", hidden, hidden), ("attn_k", hidden, kv_width), ("attn_v", hidden, kv_width),
                                      ("attn_output", hidden, hidden), ("ffn_gate", hidden, FFN), ("ffn_up", hidden, FFN), ("ffn_down", FFN, hidden)):
            matrix(f"blk.{layer}.{name}.weight", inputs, outputs)
    norm("output_norm.weight")
    return tensors


def model(context=4096, keys=(), tensors=(), version=3, num_tensors=None, num_keys=None):
    """The bytes of the file. num_tensors and num_keys are counts to claim in the header instead of the true ones."""
    all_keys = {key: value for key, value in {**default_keys(context), **dict(keys)}.items() if value is not None}
    all_tensors = {name: value for name, value in {**default_tensors(), **dict(tensors)}.items() if value is not None}
    header = b"GGUF" + struct.pack("<IQQ", version, len(all_tensors) if num_tensors is None else num_tensors, len(all_keys) if num_keys is None else num_keys)
    for key, (kind, value) in all_keys.items():
        header += packed(key) + struct.pack("<I", kind) + value
    data = b""
    for name, (shape, kind, values) in all_tensors.items():
        header += packed(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += values + bytes(-len(values) % 32)
    return header + bytes(-len(header) % 32) + data


def parts(keys=()):
    names = list(default_tensors())
    half = len(names) // 2
    files = []
    for number, own in enumerate((names[:half], names[half:])):
        split = {"split.no": uint32(number), "split.count": uint32(2), "split.tensors.count": uint32(len(names))}
        others = dict(keys) if number == 0 else dict.fromkeys(default_keys(4096))
        files.append(model(keys={**others, **split}, tensors={name: None for name in names if name not in own}))
    return files
