# SPDX-License-Identifier: Apache-2.0
"""Writes tests/capture/fixtures/blocks.{json,bin}: what the gguf package makes of blocks of every tensor type that capture reads.

    make_blocks_fixture.py [-o tests/capture/fixtures/blocks]

The file format is that of fixture_file.py. The header's "types" is a list; each type has
    name, number  GGUF's
    blocks        u8 [blocks, bytes of a block]: random bytes; the first is all zeros, the second all ones. Scales (f16) are finite: the
                  first ones zero, negative, subnormal, smallest and largest, then random. Any other bytes are legal.
    sha256        of gguf.quants.dequantize(blocks), f32 little endian; a zero has its sign
    first         the first 32 weights of the third block, so that a difference can be looked at
"""
import argparse
import hashlib
import importlib.metadata
import pathlib

import gguf
import numpy
from fixture_file import FixtureFile
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Where each type's f16 numbers lie in a block, in bytes.
HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}
WIDE = ["F32", "BF16"]
# 0, -0, 1, -1, least and greatest subnormals, least normal, greatest, third
SPECIAL = [0x0000, 0x8000, 0x3C00, 0xBC00, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3555]


def finite_halves(generator, count):
    halves = generator.integers(0, 1 << 16, count, dtype="<u2")
    return numpy.where((halves & 0x7C00) == 0x7C00, halves & 0xBFFF, halves).astype("<u2")


def make_blocks(generator, name, count):
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    blocks = generator.integers(0, 256, (count, size), dtype="u1")
    blocks[0], blocks[1] = 0, 255
    for place, offset in enumerate(HALVES.get(name, [])):
        halves = finite_halves(generator, count)
        halves[2:2 + len(SPECIAL)] = numpy.roll(SPECIAL, 5 * place)
        halves[0], halves[1] = 0x3C00, 0xB555
        blocks[:, offset:offset + 2] = halves.view("u1").reshape(count, 2)
    if name in WIDE:  # the upper half of an f32: not all exponent bits set
        top = blocks[:, -2:].copy().view("<u2")
        blocks[:, -2:] = numpy.where((top & 0x7F80) == 0x7F80, top & 0xBFFF, top).astype("<u2").view("u1")
    return blocks


def main():
    parser = argparse.ArgumentParser(description="blocks of every tensor type and what the gguf package makes of them")
    parser.add_argument("-o", "--output", default=REPOSITORY / "tests/capture/fixtures/blocks")
    options = parser.parse_args()
    generator = numpy.random.default_rng(7)
    fixture = FixtureFile(format="kvscope.fixture.blocks", made_by=f"gguf {importlib.metadata.version('gguf')}, numpy {numpy.__version__}", types=[])
    for name in sorted([*HALVES, *WIDE], key=lambda name: GGMLQuantizationType[name].value):
        number = GGMLQuantizationType[name]
        elements = GGML_QUANT_SIZES[number][0]
        blocks = make_blocks(generator, name, {1: 1024, 32: 200, 256: 40}[elements])
        weights = gguf.quants.dequantize(blocks, number).astype("<f4").reshape(len(blocks), elements)
        assert numpy.isfinite(weights).all(), name
        fixture.header["types"].append({"name": name, "number": number.value, "blocks": fixture.add(name, blocks, "u8"), "sha256": hashlib.sha256(weights.tobytes()).hexdigest(),
                                        "first": [float(weight) for weight in weights[2:].ravel()[:32]]})
    fixture.write(options.output)


if __name__ == "__main__":
    main()
