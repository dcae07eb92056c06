#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The file tools on real runs: every level of a tiny model, one with a window and soft caps, then 256 tokens with a needle of the real one, read with h5py and compared.

Skipped (77) without the real model: traces/fetch_model puts it where this looks.
"""
import csv
import io
import json
import pathlib
import shutil
import struct
import sys
import tempfile

import h5py
import numpy

import programs
import read_trace_test
import tiny_gguf

LAYER, HEAD = 11, 4
SENTENCE = "And the people journeyed from the river unto the mountain, and pitched their tents there. "


def check_levels(folder):
    """Each level of a tiny model's run verifies; one without q, k, v has no keys in the file."""
    model = folder / "tiny.gguf"
    model.write_bytes(tiny_gguf.model())
    for level, parts in (("qkv+rows", {"q", "k", "v", "lse", "rows"}), ("qkv", {"q", "k", "v", "lse"}), ("rows", {"rows"}), ("relevance", set())):
        trace = folder / f"{level}.kvtrace.h5"
        programs.expect("kvscope-capture", "--model", model, "--prompt", SENTENCE, "--max-new", 4, "--level", level, "-o", trace)
        programs.expect("kvscope", "verify", trace)
        with h5py.File(trace) as file:
            held = {name for name in ("q", "k", "v", "lse", "rows") if name in file["layer/01"] and file["layer/01"][name].size}
        programs.check(held == parts, f"level {level} holds {sorted(held)}, expected {sorted(parts)}")


def check_window_and_soft_cap(folder):
    """A second reader agrees with the rows of a layer with a window and of one without, both soft-capped; under another rule it does not."""
    window, softcap = 24, 2.0
    model, trace = folder / "windowed.gguf", folder / "windowed.kvtrace.h5"
    model.write_bytes(tiny_gguf.model(keys={
        "llama.attention.sliding_window": tiny_gguf.uint32(window),
        "llama.attention.sliding_window_pattern": tiny_gguf.bools([True, False]),
        "llama.attn_logit_softcapping": (tiny_gguf.FLOAT32, struct.pack("<f", softcap))}))
    programs.expect("kvscope-capture", "--model", model, "--prompt", SENTENCE, "--max-new", 4, "--device", "cpu", "-o", trace)
    programs.expect("kvscope", "verify", trace)
    with h5py.File(trace) as file:
        rules = [(int(layer.attrs["window"]), float(layer.attrs["softcap"])) for layer in file["layer"].values()]
        programs.check(rules == [(window, softcap), (0, softcap)], f"windows and soft caps {rules}")
        programs.check(not file["layer/00/rows"][:, 0, :int(file["layer/00/rows_token"][0]) + 1 - window].any(), "weights before the window")
    for layer in (0, 1):
        programs.check(read_trace_test.main(str(trace), layer) == 0, f"layer {layer}: recorded and rebuilt rows differ")
    for layer, name, other in ((0, "window", window + 1), (0, "window", 0), (1, "window", window), (0, "softcap", 0.0), (1, "softcap", 1.1 * softcap)):
        changed = folder / "changed.kvtrace.h5"
        shutil.copy(trace, changed)
        with h5py.File(changed, "r+") as file:
            file[f"layer/{layer:02d}"].attrs.modify(name, other)
        programs.check(read_trace_test.main(str(changed), layer) == 1, f"layer {layer}: the h5py reader did not see {name} {other}")


def check_info(trace):
    info = json.loads(programs.expect("kvscope", "info", "--json", trace))
    with h5py.File(trace) as file:
        programs.check(info["status"] == "complete", f"status {info['status']}, expected complete")
        programs.check([layer["layer"] for layer in info["layers"]] == sorted(int(name) for name in file["layer"]), "info and file name different layers")
        programs.check(info["model"]["file_sha256"] == file["model"].attrs["file_sha256"], "info and file name different models")
    programs.check(info["model"]["layers"] == 30, f"{info['model']['layers']} layers, expected 30")
    programs.expect("kvscope", "info", trace)


def check_export(trace, folder):
    """csv, json and npz hold the same numbers as the data set."""
    with h5py.File(trace) as file:
        layer = file[f"layer/{LAYER:02d}"]
        index = int(numpy.flatnonzero(layer["head"][:] == HEAD)[0])
        queries, rows, ids = layer["rows_token"][:], layer["rows"][index], file["tokens/id"][:]
    steps = len(queries)
    export = ("kvscope", "export", trace, "--layer", LAYER, "--head", HEAD)
    programs.expect(*export, "-t", "npz", "-o", folder / "rows.npz")
    with numpy.load(folder / "rows.npz") as archive:
        programs.check(archive["weights"].dtype == numpy.float16, f"npz weights are {archive['weights'].dtype}, expected float16")
        programs.check(numpy.array_equal(archive["query_token"], queries), "npz query tokens differ from the file's")
        programs.check(numpy.array_equal(archive["token_id"], ids), "npz token ids differ from the file's")
        for step, query in enumerate(queries):
            programs.check(numpy.array_equal(archive["weights"][step, :query + 1], rows[step, :query + 1]), f"npz row {step} differs from the file's")
            programs.check(not archive["weights"][step, query + 1:].any(), f"npz row {step} is not zero behind its query token")
    document = json.loads(programs.expect(*export, "-t", "json"))
    programs.check([row["query_token"] for row in document["rows"]] == queries.tolist(), "json query tokens differ from the file's")
    lines = list(csv.DictReader(io.StringIO(programs.expect(*export))))
    programs.check(len(lines) == int((queries + 1).sum()), f"{len(lines)} csv lines, expected {int((queries + 1).sum())}")
    from_csv = numpy.zeros((steps, len(ids)))
    for line in lines:
        from_csv[int(line["step"]), int(line["token"])] = float(line["weight"])
    for step, query in enumerate(queries):
        stored = rows[step, :query + 1].astype("f8")
        for name, written in (("json", numpy.array(document["rows"][step]["weights"])), ("csv", from_csv[step, :query + 1])):
            programs.check(numpy.allclose(written, stored, rtol=1e-4, atol=1e-7), f"{name} row {step} differs from the file's by {numpy.abs(written - stored).max()}")


def check_damage_is_seen(trace, folder):
    """verify must say no when one recorded weight is off by 0.01, in a copy."""
    damaged = folder / "damaged.kvtrace.h5"
    shutil.copy(trace, damaged)
    with h5py.File(damaged, "r+") as file:
        layer = file[f"layer/{LAYER:02d}"]
        step = layer["rows"].shape[1] - 1
        layer["rows"][HEAD, step, int(layer["rows_token"][step]) // 2] += numpy.float16(0.01)
    report = json.loads(programs.expect("kvscope", "verify", "--json", damaged, status=1))
    programs.check(report, "verify --json printed nothing")
    programs.expect("kvscope", "verify", damaged, status=1)
    programs.check(read_trace_test.main(str(damaged), LAYER) == 1, "the h5py reader did not see the damage")


def main():
    with tempfile.TemporaryDirectory(prefix="kvscope_levels_") as temporary:
        check_levels(pathlib.Path(temporary))
        check_window_and_soft_cap(pathlib.Path(temporary))
    if not programs.MODEL.exists():
        programs.skip(f"no model at {programs.MODEL}; run traces/fetch_model")
    with tempfile.TemporaryDirectory(prefix="kvscope_capture_") as temporary:
        folder = pathlib.Path(temporary)
        haystack = folder / "haystack.txt"
        haystack.write_text(SENTENCE * 100, encoding="utf-8")
        trace = folder / "needle.kvtrace.h5"
        programs.expect("kvscope-capture", "--model", programs.MODEL, "--haystack", haystack, "--context", 256, "--max-new", 8, "-o", trace, timeout=600)
        for layer in (0, LAYER, 29):
            programs.check(read_trace_test.main(str(trace), layer) == 0, f"layer {layer}: recorded and rebuilt rows differ")
        check_info(trace)
        programs.expect("kvscope", "verify", trace)
        check_export(trace, folder)
        check_damage_is_seen(trace, folder)
        recovered = folder / "recovered.kvtrace.h5"
        shutil.copy(trace, recovered)
        programs.expect("kvscope", "recover", recovered)
        programs.expect("kvscope", "verify", recovered)
    print("the trace, its reader and its exports agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
