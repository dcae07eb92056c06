#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A second reader of the trace format, in some 30 lines of h5py: what is in the file, and do its recorded rows follow from q, k, lse?

    read_trace_test.py FILE [LAYER]        Debian's python3, python3-h5py and python3-numpy; exit 0 yes, 1 no, 2 nothing to check

LAYER is absolute; without it the first and the last recorded layer are checked, every head and every decode step of them.
"""
import sys

import h5py
import numpy


def rebuilt_row(layer, head, query):
    """Weights of one head's row for query token `query`, [query + 1], from what the file stores."""
    group = layer.attrs["heads"] // layer.attrs["kv_heads"]
    kv = numpy.flatnonzero(layer["kv_head"][:] == layer["head"][head] // group)[0]
    row = numpy.flatnonzero(layer["q_token"][:] == query)[0]
    scores = layer["k"][kv, :query + 1].astype("f8") @ layer["q"][head, row].astype("f8") * float(layer.attrs["scale"])
    softcap, window = float(layer.attrs["softcap"]), int(layer.attrs["window"])
    if softcap > 0:
        scores = softcap * numpy.tanh(scores / softcap)
    if window > 0:
        scores[:max(0, query + 1 - window)] = -numpy.inf
    return numpy.exp(scores - float(layer["lse"][head, row]))


def largest_difference(layer):
    """Largest |rebuilt - recorded| over every head and step of one layer."""
    if layer.attrs["kind"] not in ("full", b"full", "window", b"window"):
        print(f"this reader knows layers of kind full and window, found {layer.attrs['kind']}")
        raise SystemExit(2)
    return max(numpy.abs(rebuilt_row(layer, head, query) - layer["rows"][head, step, :query + 1]).max()
               for step, query in enumerate(layer["rows_token"][:]) for head in range(layer["rows"].shape[0]))


def main(path, only_layer=None):
    with h5py.File(path, "r") as trace:
        layers = sorted(trace["layer"], key=int)
        print(f"{path}: {trace.attrs['format']} {list(trace.attrs['version'])}, {trace['tokens/id'].shape[0]} tokens, layers {', '.join(layers)}")
        wanted = [layers[0], layers[-1]] if only_layer is None else [f"{only_layer:02d}"]
        if not all("rows" in trace["layer"][name] and trace["layer"][name]["rows"].shape[1] for name in wanted):
            print("no decode rows were recorded")
            return 2
        differences = {name: largest_difference(trace["layer"][name]) for name in wanted}
    for name, difference in differences.items():
        print(f"layer {name}: recorded and rebuilt rows differ by at most {difference:.2e} (limit 5e-4)")
    return 0 if all(difference < 5e-4 for difference in differences.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
