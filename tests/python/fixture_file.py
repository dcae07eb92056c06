# SPDX-License-Identifier: Apache-2.0
"""The format of the numeric fixtures: NAME.json says what is in NAME.bin.

The JSON object holds what its writer put there and "arrays": {array name: {"dtype", "shape", "offset", "bytes"}}. dtype is f32, f16,
i32, u16 or u8; offset counts bytes from the start of the .bin, a multiple of 8; values are little-endian, row-major, outermost dimension first.
"""
import json
import pathlib

import numpy

DTYPES = {"f32": "<f4", "f16": "<f2", "i32": "<i4", "u16": "<u2", "u8": "u1"}


class FixtureFile:
    def __init__(self, **header):
        self.header = header
        self.arrays = {}
        self.data = bytearray()

    def add(self, name, values, dtype):
        """Appends one array; returns its name, for the header."""
        values = numpy.ascontiguousarray(values, dtype=DTYPES[dtype])
        if name in self.arrays:
            raise ValueError(f"array {name} added twice")
        self.data += bytes(-len(self.data) % 8)
        self.arrays[name] = {"dtype": dtype, "shape": list(values.shape), "offset": len(self.data), "bytes": values.nbytes}
        self.data += values.tobytes()
        return name

    def write(self, path_without_suffix):
        path = pathlib.Path(path_without_suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".bin").write_bytes(self.data)
        header = {**self.header, "bin_bytes": len(self.data), "arrays": self.arrays}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}" for key, value in header.items())
        path.with_suffix(".json").write_text("{\n" + lines + "\n}\n", encoding="utf-8", newline="\n")
        print(f"{path}.json + .bin: {len(self.arrays)} arrays, {path.with_suffix('.json').stat().st_size} + {len(self.data)} bytes")


def read(path_without_suffix):
    """(header, {array name: values}) of a fixture."""
    path = pathlib.Path(path_without_suffix)
    header = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    data = path.with_suffix(".bin").read_bytes()
    return header, {name: numpy.frombuffer(data, DTYPES[array["dtype"]], int(numpy.prod(array["shape"])), array["offset"]).reshape(array["shape"]) for name, array in header["arrays"].items()}
