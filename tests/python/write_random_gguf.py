#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes FOLDER/SHAPE.gguf: a model of a real size with random weights, to measure loading, memory and speed without a download.

    write_random_gguf.py SHAPE FOLDER     in an environment with the gguf package: PYTHONPATH=$(tests/python/fetch_gguf)

Weights are random quantised blocks, made piece by piece and never held as a whole: Q4_K, and Q6_K where llama.cpp's Q4_K_M has it
(output, and attn_v and ffn_down of half of the layers). Their mean is 0 and their standard deviation 0.02, so activations stay finite;
what such a model says is noise. The vocabulary has one token per byte and unused ones up to the shape's size.
"""
import pathlib
import sys
import time

import gguf
import numpy

import write_tiny_models

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SHAPES = {
    "llama-3.1-8b": {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336, "vocab": 128256, "context": 131072},
    "long-context": {"layers": 4, "hidden": 512, "heads": 8, "kv_heads": 2, "head_dim": 64, "ffn": 1024, "vocab": 32000, "context": 131072},
}
DEVIATION = 0.02
PIECE_BLOCKS = 1 << 16
BLOCK = 256  # values
Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K


def _f16_bytes(value, blocks):
    return numpy.full(blocks, value, "<f2").view("u1").reshape(blocks, 2)


def q4_k(generator, blocks):
    """u8 [blocks, 144]: two halves, 12 bytes of packed 6-bit scales and minimums of 32 values each, 128 bytes of 4-bit codes.

    value = d * scale * code - d_minimum * minimum; with d_minimum = 7.5 d and minimum = scale that is d * scale * (code - 7.5).
    """
    scales = generator.integers(32, 64, (blocks, 8), "u1")
    low, high = scales[:, :4], scales[:, 4:]
    packed = numpy.concatenate([low | high >> 4 << 6, low | high >> 4 << 6, (high & 15) | (high & 15) << 4], axis=1)
    d = DEVIATION / (48.5 * 4.61)
    return numpy.concatenate([_f16_bytes(d, blocks), _f16_bytes(7.5 * d, blocks), packed, generator.integers(0, 256, (blocks, 128), "u1")], axis=1)


def q6_k(generator, blocks):
    """u8 [blocks, 210]: the low 4 bits and the high 2 bits of the codes, 16 signed scales, a half; value = d * scale * (code - 32)."""
    scales = generator.integers(64, 128, (blocks, 16), "i1") * generator.choice(numpy.array([-1, 1], "i1"), (blocks, 16))
    return numpy.concatenate([generator.integers(0, 256, (blocks, 192), "u1"), scales.view("u1"), _f16_bytes(DEVIATION / (97.3 * 18.5), blocks)], axis=1)


BLOCKS_OF = {Q4_K: q4_k, Q6_K: q6_k}


def has_more_bits(layer, layers):
    """Where Q4_K_M takes Q6_K: the first and last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def matrices(shape):
    """(name, outputs, inputs, type) in the order of the file."""
    hidden, ffn, width, kv_width = shape["hidden"], shape["ffn"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    yield "token_embd.weight", shape["vocab"], hidden, Q4_K
    for layer in range(shape["layers"]):
        better = Q6_K if has_more_bits(layer, shape["layers"]) else Q4_K
        for name, outputs, inputs, kind in (("attn_q", width, hidden, Q4_K), ("attn_k", kv_width, hidden, Q4_K), ("attn_v", kv_width, hidden, better),
                                            ("attn_output", hidden, width, Q4_K), ("ffn_gate", ffn, hidden, Q4_K), ("ffn_up", ffn, hidden, Q4_K), ("ffn_down", hidden, ffn, better)):
            yield f"blk.{layer}.{name}.weight", outputs, inputs, kind
    yield "output.weight", shape["vocab"], hidden, Q6_K


def vectors(shape, generator):
    for name in [f"blk.{layer}.{norm}" for layer in range(shape["layers"]) for norm in ("attn_norm", "ffn_norm")] + ["output_norm"]:
        yield f"{name}.weight", generator.uniform(0.8, 1.2, shape["hidden"]).astype("f4")
    yield "rope_freqs.weight", write_tiny_models.llama3_factors({**LLAMA3, "rope_theta": 500000.0}, shape["head_dim"])


def add_keys(writer, name, shape):
    writer.add_name(f"random {name}")
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocab"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    write_tiny_models.add_tokenizer(writer, shape["vocab"])


def write(name, folder):
    shape, path = SHAPES[name], pathlib.Path(folder) / f"{name}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "llama")
    add_keys(writer, name, shape)
    small = list(vectors(shape, generator))
    for tensor, values in small:
        writer.add_tensor_info(tensor, values.shape, values.dtype, values.nbytes)
    large = list(matrices(shape))
    for tensor, outputs, inputs, kind in large:
        row_bytes = inputs // BLOCK * gguf.GGML_QUANT_SIZES[kind][1]
        writer.add_tensor_info(tensor, (outputs, row_bytes), numpy.dtype("u1"), outputs * row_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for _, values in small:
        file.write(values.tobytes())
        writer.write_padding(file, values.nbytes)
    for _, outputs, inputs, kind in large:
        blocks = outputs * inputs // BLOCK
        for first in range(0, blocks, PIECE_BLOCKS):
            file.write(BLOCKS_OF[kind](generator, min(PIECE_BLOCKS, blocks - first)).tobytes())
        writer.write_padding(file, blocks * gguf.GGML_QUANT_SIZES[kind][1])
    writer.close()
    path.with_suffix(".part").rename(path)
    return path


def main(*arguments):
    if len(arguments) != 2 or arguments[0] not in SHAPES:
        raise SystemExit(f"write_random_gguf.py: expected SHAPE FOLDER, SHAPE one of {', '.join(SHAPES)}")
    begin = time.monotonic()
    path = write(*arguments)
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
