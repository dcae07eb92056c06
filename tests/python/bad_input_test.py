#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong, as one table: every command must exit with 2, print exactly one line on standard error that begins with the
program's name and says what is wrong, print nothing on standard output, leave every file as it was and make none, within 20 s.

    bad_input_test.py [NAME ...]        only the cases whose name contains one of these words
"""
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import h5py

import programs
import tiny_gguf

LIMIT_SECS = 20
LATIN1 = "caf\udce9"  # as Python writes the byte 0xe9 on a command line


def damaged_models(good):
    """(name, bytes, fragment): one mistake each."""
    shape, _, data = tiny_gguf.default_tensors()["blk.0.attn_q.weight"]
    huge = struct.pack("<IQ", tiny_gguf.TEXT, 1 << 62)
    nan = struct.pack("<f", float("nan")) + data[4:]
    return [
        ("empty", b"", "GGUF"),
        ("not_gguf", b"PK\x03\x04" + good[4:], "GGUF"),
        ("other_text", b"this is not a model\n" * 50, "GGUF"),
        ("big_endian", b"GGUF" + struct.pack(">I", 3) + good[8:], "big endian"),
        ("old_version", tiny_gguf.model(version=1), "GGUF version 2 or 3, found 1"),
        ("new_version", tiny_gguf.model(version=4), "GGUF version 2 or 3, found 4"),
        ("other_architecture", tiny_gguf.model(keys={"general.architecture": tiny_gguf.text("mamba")}), "found 'mamba'"),
        ("control_characters", tiny_gguf.model(keys={"general.architecture": tiny_gguf.text("a\n\x1b[31mb")}), "architecture"),
        ("other_tokenizer", tiny_gguf.model(keys={"tokenizer.ggml.model": tiny_gguf.text("bert")}), "tokenizer.ggml.model"),
        ("no_scores", tiny_gguf.model(keys={"tokenizer.ggml.model": tiny_gguf.text("llama")}), "tokenizer.ggml.scores"),
        ("other_splitter", tiny_gguf.model(keys={"tokenizer.ggml.pre": tiny_gguf.text("deepseek-llm")}), "tokenizer.ggml.pre"),
        ("no_vocabulary", tiny_gguf.model(keys={"tokenizer.ggml.tokens": None}), "tokenizer.ggml.tokens"),
        ("no_layers_key", tiny_gguf.model(keys={"llama.block_count": None}), "llama.block_count"),
        ("zero_layers", tiny_gguf.model(keys={"llama.block_count": tiny_gguf.uint32(0)}), "llama.block_count"),
        ("many_layers", tiny_gguf.model(keys={"llama.block_count": tiny_gguf.uint32(0xFFFFFFFF)}), "llama.block_count"),
        ("missing_layer", tiny_gguf.model(keys={"llama.block_count": tiny_gguf.uint32(3)}), "blk.2."),
        ("zero_heads", tiny_gguf.model(keys={"llama.attention.head_count": tiny_gguf.uint32(0)}), "head_count"),
        ("odd_kv_heads", tiny_gguf.model(keys={"llama.attention.head_count_kv": tiny_gguf.uint32(3)}), "head_count_kv"),
        ("count_as_text", tiny_gguf.model(keys={"llama.block_count": tiny_gguf.text("two")}), "llama.block_count"),
        ("short_window_pattern", tiny_gguf.model(keys={"llama.attention.sliding_window_pattern": tiny_gguf.bools([True])}), "each of the 2 layers, found 1"),
        ("window_pattern_of_numbers", tiny_gguf.model(keys={"llama.attention.sliding_window_pattern": tiny_gguf.array(5, [bytes(4)] * 2)}), "truth values"),
        ("other_tensor_type", tiny_gguf.model(tensors={"blk.0.attn_q.weight": (shape, 14, data)}), "type"),
        ("unknown_tensor_type", tiny_gguf.model(tensors={"blk.0.attn_q.weight": (shape, 999, data)}), "type"),
        ("missing_tensor", tiny_gguf.model(tensors={"blk.1.ffn_up.weight": None}), "blk.1.ffn_up.weight"),
        ("other_shape", tiny_gguf.model(tensors={"blk.0.attn_q.weight": ((32, 128), 0, data)}), "blk.0.attn_q.weight"),
        ("overflowing_shape", tiny_gguf.model(tensors={"blk.0.attn_q.weight": ((1 << 33, 1 << 33), 0, data)}), "blk.0.attn_q.weight"),
        ("nan_weight", tiny_gguf.model(tensors={"blk.0.attn_q.weight": (shape, 0, nan)}), "blk.0.attn_q.weight"),
        ("many_tensors", tiny_gguf.model(num_tensors=1 << 62), "tensors"),
        ("many_keys", tiny_gguf.model(num_keys=1 << 62), "keys"),
        ("long_text", tiny_gguf.model(keys={"general.name": (tiny_gguf.TEXT, struct.pack("<Q", 1 << 62))}), "general.name"),
        ("long_array", tiny_gguf.model(keys={"tokenizer.ggml.merges": (tiny_gguf.ARRAY, huge)}), "tokenizer.ggml.merges"),
        ("unknown_value_type", tiny_gguf.model(keys={"general.name": (77, b"")}), "general.name"),
        ("duplicate_token", tiny_gguf.model(keys={"tokenizer.ggml.tokens": tiny_gguf.array(8, [tiny_gguf.packed("same")] * 259)}), "tokenizer.ggml.tokens"),
        *((f"cut_at_{percent}", good[:len(good) * percent // 100], "") for percent in range(1, 100, 7)),
        ("cut_by_one_byte", good[:-1], ""),
    ]


class Cases:
    """The table; `folder` holds everything that the commands name."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = []

    def add(self, name, fragment, *command):
        self.rows.append((name, fragment, command))

    def file(self, name, data):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path


def add_models(cases, good):
    for name, data, fragment in damaged_models(good):
        model = cases.file(f"{name}.gguf", data)
        cases.add(f"model {name}", fragment, "kvscope-capture", "--model", model, "--prompt", "Why?", "-o", cases.folder / "new.h5")
    for name, path, fragment in (("missing", cases.folder / "nowhere.gguf", "nowhere.gguf"), ("folder", cases.folder, ""), ("device", "/dev/null", "/dev/null"),
                                 ("line break in the name", cases.folder / "no\nwhere.gguf", "where.gguf")):
        cases.add(f"model {name}", fragment, "kvscope-capture", "--model", path, "--prompt", "Why?", "-o", cases.folder / "new.h5")


def add_captures(cases, model, trace):
    folder = cases.folder
    prose = cases.file("prose.txt", "And the earth was without form, and void. " * 200)
    start = ("kvscope-capture", "--model", model, "-o", folder / "new.h5")
    niah = (*start, "--haystack", prose, "--context", 1024)
    text = (*start, "--task", "text", "--file", prose, "--context", 64)
    broken = ("kvscope-capture", "--model", folder / "nan_weight.gguf", "--prompt", "Why?")  # opens, but cannot be loaded
    part = [cases.file(f"split-0000{number + 1}-of-00002.gguf", data) for number, data in enumerate(tiny_gguf.parts())]
    for name, fragment, *command in [
        ("no arguments", "--model", "kvscope-capture"),
        ("no output", "--output", "kvscope-capture", "--model", model, "--prompt", "Why?"),
        ("unknown flag", "--contxt", *start, "--contxt", 4),
        ("context above the model's", "4096", *niah[:-1], 5000),
        ("context too short", "context of at least", *niah[:-1], 3),
        ("context zero", "context", *niah[:-1], 0),
        ("context negative", "context", *niah[:-1], -5),
        ("context overflows", "--context", *niah[:-1], "99999999999999999999"),
        ("context no number", "--context", *niah[:-1], "2k"),
        ("text context above the model's", "4096", *text[:-1], 5000),
        ("text too short", "pass a longer text", *text[:-1], 4096, "--windows", 9),
        ("text without a file", "--file", *start, "--task", "text"),
        ("text file missing", "nowhere.txt", *start, "--task", "text", "--file", folder / "nowhere.txt"),
        ("text empty", "empty.txt", *start, "--task", "text", "--file", cases.file("empty.txt", ""), "--context", 64),
        ("windows zero", "--windows", *text, "--windows", 0),
        ("haystack missing", "nowhere.txt", *start, "--haystack", folder / "nowhere.txt", "--context", 1024),
        ("haystack is a folder", "", *start, "--haystack", folder, "--context", 1024),
        ("haystack empty", "empty.txt", *start, "--haystack", folder / "empty.txt", "--context", 1024),
        ("haystack too short", "pass a longer text", *start, "--haystack", cases.file("short.txt", "One sentence only. And a second one."), "--context", 1024),
        ("haystack not UTF-8", "expected UTF-8", *start, "--haystack", cases.file("latin1.txt", b"In the caf\xe9 they sat. " * 500), "--context", 1024),
        ("text not UTF-8", "expected UTF-8", *start, "--task", "text", "--file", folder / "latin1.txt", "--context", 64),
        ("haystack binary", "", *start, "--haystack", cases.file("zeros.txt", bytes(20000)), "--context", 1024),
        ("haystack with special tokens", "<|im_end|>", *start, "--haystack", cases.file("special.txt", "It ends here.<|im_end|> Or there. " * 300), "--context", 1024),
        ("prompt empty", "expected text", *start, "--task", "prompt", "--prompt", ""),
        ("prompt not given", "expected text", *start, "--task", "prompt"),
        ("prompt empty without a task", "expected text", *start, "--prompt", ""),
        ("prompt not UTF-8", "expected UTF-8", *start, "--prompt", LATIN1),
        ("prompt above the context", "4096", *start, "--prompt", "a" * 5000),
        ("depth 2", "from 0 to 1", *niah, "--depth", 2),
        ("depth negative", "from 0 to 1", *niah, "--depth", -0.5),
        ("depth nan", "from 0 to 1", *niah, "--depth", "nan"),
        ("wording 3", "--wording", *niah, "--wording", 3),
        ("doors 0", "--doors", *niah, "--doors", 0),
        ("doors 9", "--doors", *niah, "--doors", 9),
        ("doors that the wording does not name", "names a door", *niah, "--doors", 3, "--wording", 1),
        ("doors in a context too short", "fewer doors", *niah[:-1], 128, "--doors", 8),
        ("repeats 0", "--repeats", *niah, "--repeats", 0),
        ("seed negative", "--seed", *niah, "--seed", -1),
        ("seed overflows", "--seed", *niah, "--seed", "99999999999999999999999"),
        ("output is its own model", "read by this command", *niah[:3], "-o", model, *niah[5:], "--force"),
        ("max-new negative", "--max-new", *niah, "--max-new", -1),
        ("max-new above the context", "4096", *start, "--prompt", "Why?", "--max-new", 5000),
        ("unknown task", "--task", *start, "--task", "poem"),
        ("unknown level", "qkv+rows", *niah, "--level", "everything"),
        ("unknown dtype", "--kv-dtype", *niah, "--kv-dtype", "bf16"),
        ("unknown device", "--device", *niah, "--device", "tpu"),
        ("device without a number", "expected cpu", *niah, "--device", "cuda:"),
        ("device far away", "CUDA", *niah, "--device", "cuda:99"),
        ("weights of eight bits", "--weights", *niah, "--weights", "f8"),
        ("unknown shape", "llama-3.1-8b", "kvscope-capture", "--synthetic", "gpt-5", "-o", folder / "new.h5"),
        ("a shape and a model", "expected one of them", *niah, "--synthetic", "llama-3.1-8b"),
        ("a shape on the CPU", "--synthetic", "kvscope-capture", "--synthetic", "llama-3.1-8b", "--device", "cpu", "-o", folder / "new.h5"),
        ("a shape's context too long", "131056", "kvscope-capture", "--synthetic", "llama-3.1-8b", "--context", 200000, "-o", folder / "new.h5"),
        ("layers 99", "--layers", *niah, "--layers", 99),
        ("layers negative", "--layers", *niah, "--layers", -1),
        ("kv-heads 7", "--kv-heads", *niah, "--kv-heads", 7),
        ("query-rows misspelled", "query", *niah, "--query-rows", "lst:64"),
        ("query-rows stride 0", "query", *niah, "--query-rows", "stride:0"),
        ("query-rows overflows", "query", *niah, "--query-rows", "last:99999999999999999999"),
        ("prefill-chunk 0", "--prefill-chunk", *niah, "--prefill-chunk", 0),
        ("flush-secs nan", "--flush-secs", *niah, "--flush-secs", "nan"),
        ("queue-mib 0", "--queue-mib", *niah, "--queue-mib", 0),
        ("output is another part of its model", "read by this command", *niah[:2], part[0], "-o", part[1], *niah[5:], "--force"),
        ("int8 activations on a device", "runs on the CPU only", *niah, "--device", "cuda", "--activations", "int8"),
        ("int8 activations of a shape", "runs on a CUDA device only", "kvscope-capture", "--synthetic", "llama-3.1-8b", "--activations", "int8", "-o", folder / "new.h5"),
        ("existing output", "--force", *niah[:3], "-o", trace, *niah[5:]),
        ("existing output, before the model is loaded", "--force", *broken, "-o", trace),
        ("existing output in a folder, before the model is loaded", "--force", *broken, "-o", cases.file("taken/prompt.kvtrace.h5", "").parent),
        ("output into a missing folder, before the model is loaded", "nowhere", *broken, "-o", folder / "nowhere/new.h5"),
        ("output into a new folder of a model that cannot be loaded", "blk.0.attn_q.weight", *broken, "-o", f"{folder}/runs/"),
        ("unknown level, before the model is loaded", "qkv+rows", *broken, "-o", folder / "new.h5", "--level", "everything"),
        ("grid into one file", "expected a folder", *niah, "--depth", "0,0.5"),
        ("grid with two equal cells", "differ", *niah[:3], "-o", folder / "grid/", *niah[5:], "--depth", "0.5,0.5"),
        ("output below a file", "prose.txt", *niah[:3], "-o", prose / "new.h5", *niah[5:]),
        ("output folder below a file", "prose.txt", *niah[:3], "-o", f"{prose}/runs/", *niah[5:]),
        ("output into a missing folder", "nowhere", *niah[:3], "-o", folder / "nowhere/new.h5", *niah[5:]),
        ("output read-only", "/proc", *niah[:3], "-o", "/proc/new.h5", *niah[5:]),
    ]:
        cases.add(f"capture {name}", fragment, *command)


def add_traces(cases, trace):
    folder, good = cases.folder, trace.read_bytes()
    newer = folder / "newer.kvtrace.h5"
    shutil.copy(trace, newer)
    with h5py.File(newer, "r+") as file:
        file.attrs["version"] = [99, *list(file.attrs["version"])[1:]]
    other = folder / "other.h5"
    with h5py.File(other, "w") as file:
        file["numbers"] = [1, 2, 3]
    bad = [("missing", folder / "nowhere.kvtrace.h5", "nowhere.kvtrace.h5"), ("folder without traces", folder / "hollow", "hollow"), ("newer version", newer, "format 99"),
           ("other HDF5 file", other, "other.h5"), ("text", folder / "prose.txt", "HDF5"), ("empty", folder / "empty.txt", "HDF5"), ("device", "/dev/null", "/dev/null")]
    (folder / "hollow").mkdir()
    bad += [(f"cut at {percent} %", cases.file(f"cut_{percent}.kvtrace.h5", good[:len(good) * percent // 100]), f"cut_{percent}") for percent in range(100)]
    for name, path, fragment in bad:
        cases.add(f"info, trace {name}", fragment, "kvscope", "info", path)
        cases.add(f"replay, trace {name}", fragment, "kvscope-replay", "run", path, "--policy", "snapkv", "--keep-fraction", 0.5, "-o", folder / "new.h5")
        if "%" not in name:
            for tool in ("verify", "recover"):
                cases.add(f"{tool}, trace {name}", fragment, "kvscope", tool, path)
    export = ("kvscope", "export", trace, "--layer", 0, "--head", 0)
    for name, fragment, *command in [
        ("no subcommand", "subcommand", "kvscope"),
        ("unknown subcommand", "inof", "kvscope", "inof", trace),
        ("no file", "FILE", "kvscope", "info"),
        ("two files", "", "kvscope", "info", trace, trace),
        ("layer missing", "layer", *export[:4], 99, "--head", 0),
        ("layer negative", "layer", *export[:4], -1, "--head", 0),
        ("head missing", "head", *export[:6], 99),
        ("head negative", "head", *export[:6], -1),
        ("no layer", "--layer", "kvscope", "export", trace, "--head", 0),
        ("unknown type", "csv", *export, "-t", "xlsx"),
        ("unknown part", "rows", *export, "--what", "keys"),
        ("output below a file", "prose.txt", *export, "-o", folder / "prose.txt/x.csv"),
        ("output is a folder", "", *export, "-o", folder),
        ("output is its own input", "read by this command", *export, "-o", trace),
        ("output into a missing folder", "nowhere", *export, "-o", folder / "nowhere/x.csv"),
    ]:
        cases.add(f"files {name}", fragment, *command)


def add_replays(cases, trace):
    folder = cases.folder
    def run(policy="snapkv", *budget):
        return ("kvscope-replay", "run", trace, "--policy", policy, *(budget or ("--keep-fraction", 0.5)), "-o", folder / "new.h5")
    for name, fragment, *command in [
        ("no subcommand", "subcommand", "kvscope-replay"),
        ("unknown subcommand", "rnu", "kvscope-replay", "rnu"),
        ("no policy", "--policy", "kvscope-replay", "run", trace, "--keep-fraction", 0.5, "-o", folder / "new.h5"),
        ("no trace", "traces", "kvscope-replay", "run", "--policy", "snapkv", "--keep-fraction", 0.5, "-o", folder / "new.h5"),
        ("no output", "--output", "kvscope-replay", "run", trace, "--policy", "snapkv", "--keep-fraction", 0.5),
        ("no budget", "--keep-fraction", "kvscope-replay", "run", trace, "--policy", "snapkv", "-o", folder / "new.h5"),
        ("policy misspelled", "did you mean snapkv", *run("snapvk")),
        ("policy in capitals", "snapkv", *run("SnapKV")),
        ("policy empty", "policy", *run("")),
        ("policy between commas", "policy", *run("snapkv,,h2o")),
        ("policy not ASCII", "ASCII", *run("snapkv\u00e9")),
        ("policy with a line break", "", *run("snap\nkv")),
        ("policy too long", "characters", *run("a" * 5000)),
        ("parameter misspelled", "did you mean window", *run("snapkv:windwo=8")),
        ("parameter without a value", "window", *run("snapkv:window=")),
        ("parameter without =", "key=value", *run("snapkv:window")),
        ("parameter twice", "twice", *run("snapkv:window=8:window=9")),
        ("parameter NaN", "nan", *run("adkvc:decay=nan")),
        ("parameter infinite", "inf", *run("adkvc:decay=inf")),
        ("parameter negative", "-4", *run("snapkv:window=-4")),
        ("parameter overflows", "window", *run("snapkv:window=99999999999999999999")),
        ("parameter no integer", "window", *run("snapkv:window=1.5")),
        ("parameter no number", "window", *run("snapkv:window=many")),
        ("allocator misspelled", "did you mean", *run("snapkv+adda")),
        ("store misspelled", "did you mean", *run("snapkv@itn4")),
        ("reader unknown", "reader", *run("snapkv&quest")),
        ("chunk zero", "chunk", *run("snapkv/chunk=0")),
        ("fraction 0", "above 0", *run("snapkv", "--keep-fraction", 0)),
        ("fraction 1.5", "at most 1", *run("snapkv", "--keep-fraction", 1.5)),
        ("fraction negative", "above 0", *run("snapkv", "--keep-fraction=-0.5")),
        ("fraction nan", "--keep-fraction", *run("snapkv", "--keep-fraction", "nan")),
        ("fraction inf", "--keep-fraction", *run("snapkv", "--keep-fraction", "inf")),
        ("fraction no number", "--keep-fraction", *run("snapkv", "--keep-fraction", "half")),
        ("fraction between commas", "--keep-fraction", *run("snapkv", "--keep-fraction", "0.5,,0.25")),
        ("tokens 0", "--keep-tokens", *run("snapkv", "--keep-tokens", 0)),
        ("tokens 1.5", "--keep-tokens", *run("snapkv", "--keep-tokens", 1.5)),
        ("tokens negative", "--keep-tokens", *run("snapkv", "--keep-tokens=-3")),
        ("tokens overflow", "--keep-tokens", *run("snapkv", "--keep-tokens", "1e30")),
        ("compression 1", "--compression-ratio", *run("snapkv", "--compression-ratio", 1)),
        ("guards above the budget", "above a budget", *run(), "--guard", "sinks=400,recent=400"),
        ("guard misspelled", "--guard", *run(), "--guard", "sink=4"),
        ("guard negative", "--guard", *run(), "--guard", "sinks=-4"),
        ("guard overflows", "--guard", *run(), "--guard", "sinks=99999999999"),
        ("decide-at unknown", "--decide-at", *run(), "--decide-at", "question"),
        ("seed negative", "--seed", *run(), "--seed", -1),
        ("threads negative", "--threads", *run(), "--threads", -1),
        ("output below a file", "prose.txt", *run()[:-1], folder / "prose.txt/new.h5"),
        ("output into a missing folder", "nowhere", *run()[:-1], folder / "nowhere/new.h5"),
        ("output is a folder", "folder", *run()[:-1], folder),
        ("output read-only", "/proc", *run()[:-1], "/proc/new.h5"),
        ("output is its own input", "read by this command", *run()[:-1], trace),
        ("output is its own input by another name", "read by this command", *run()[:-1], folder / "hollow/.." / trace.name),
        ("csv into a missing folder", "nowhere", *run(), "--csv", folder / "nowhere/new.csv"),
        ("csv below a file", "prose.txt", *run(), "--csv", folder / "prose.txt/new.csv"),
        ("csv is a folder", "folder", *run(), "--csv", folder),
        ("csv and results in one file", "another file", *run(), "--csv", folder / "new.h5"),
        ("explain misspelled", "did you mean snapkv", "kvscope-replay", "explain", "snapkvv"),
        ("list as two formats", "--markdown", "kvscope-replay", "list", "--json", "--markdown"),
    ]:
        cases.add(f"replay {name}", fragment, *command)


def add_live(cases, model):
    folder = cases.folder
    start = ("kvscope-replay", "live", "--model", model, "--haystack", folder / "prose.txt", "--context", 1024)
    live = (*start, "--policy", "snapkv", "--keep-fraction", 0.5, "-o", folder / "new.h5")
    for name, fragment, *command in [
        ("no policy", "--policy", *start, "--keep-fraction", 0.5, "-o", folder / "new.h5"),
        ("no budget", "--keep-fraction", *start, "--policy", "snapkv", "-o", folder / "new.h5"),
        ("policy misspelled", "did you mean snapkv", *start, "--policy", "snapvk", "--keep-fraction", 0.5, "-o", folder / "new.h5"),
        ("model missing", "nowhere.gguf", *live[:3], folder / "nowhere.gguf", *live[4:]),
        ("model not GGUF", "prose.txt", *live[:3], folder / "prose.txt", *live[4:]),
        ("context above the model's", "4096", *live[:7], 5000, *live[8:]),
        ("guards above the budget", "above a budget", *live, "--guard", "sinks=900,recent=900"),
        ("fork-mib 0", "--fork-mib", *live, "--fork-mib", 0),
        ("seed negative", "--seed", *live, "--seed", -1),
        ("output is its own model", "read by this command", *live[:-1], model),
        ("output is another part of its model", "read by this command", *live[:3], folder / "split-00001-of-00002.gguf", *live[4:-1], folder / "split-00002-of-00002.gguf"),
        ("csv is another part of its model", "read by this command", *live[:3], folder / "split-00002-of-00002.gguf", *live[4:], "--csv", folder / "split-00001-of-00002.gguf"),
        ("output into a missing folder", "nowhere", *live[:-1], folder / "nowhere/new.h5"),
        ("csv into a missing folder", "nowhere", *live, "--csv", folder / "nowhere/new.csv"),
    ]:
        cases.add(f"live {name}", fragment, *command)


def add_results(cases, trace, results):
    folder = cases.folder
    cut = cases.file("cut.h5", results.read_bytes()[:5000])
    page = ("-o", folder / "new.html")
    for name, fragment, *command in [
        ("report without files", "results", "kvscope-replay", "report", *page),
        ("report of a missing file", "nowhere.h5", "kvscope-replay", "report", folder / "nowhere.h5", *page),
        ("report of a text", "prose.txt", "kvscope-replay", "report", folder / "prose.txt", *page),
        ("report of a cut file", "cut.h5", "kvscope-replay", "report", cut, *page),
        ("report of a trace", trace.name, "kvscope-replay", "report", trace, *page),
        ("report of a folder", "", "kvscope-replay", "report", folder, *page),
        ("report into a missing folder", "nowhere", "kvscope-replay", "report", results, "-o", folder / "nowhere/new.html"),
        ("report below a file", "prose.txt", "kvscope-replay", "report", results, "-o", folder / "prose.txt/new.html"),
        ("pictures below a file", "prose.txt", "kvscope-replay", "report", results, *page, "--pictures", folder / "prose.txt/pictures"),
        ("report over its input", "read by this command", "kvscope-replay", "report", results, "-o", results),
        ("fidelity of one file", "", "kvscope-replay", "fidelity", results),
        ("fidelity of two replays", "expected results of live", "kvscope-replay", "fidelity", results, results),
        ("fidelity of a text", "prose.txt", "kvscope-replay", "fidelity", results, folder / "prose.txt"),
        ("merge of a text", "prose.txt", "kvscope-replay", "merge", results, folder / "prose.txt", "-o", folder / "new.h5"),
        ("merge over its input", "read by this command", "kvscope-replay", "merge", results, "-o", results),
        ("merge into a missing folder", "nowhere", "kvscope-replay", "merge", results, "-o", folder / "nowhere/new.h5"),
    ]:
        cases.add(f"results {name}", fragment, *command)


def snapshot(folder):
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def undo(before, after, originals):
    """Removes new files and writes changed ones again, so that one case's mistake does not become the next one's."""
    for path in sorted(after.keys() - before.keys(), reverse=True):
        pathlib.Path(path).rmdir() if pathlib.Path(path).is_dir() else pathlib.Path(path).unlink()
    for path, data in originals.items():
        if path.read_bytes() != data:
            path.write_bytes(data)


def faults(command, fragment, folder, originals):
    """What the command did wrong, one sentence each."""
    before, started = snapshot(folder), time.monotonic()
    words = [os.fsencode(str(word)) for word in command]
    try:
        process = subprocess.run([os.fsencode(programs.BIN / command[0]), *words[1:]], cwd=folder, capture_output=True, timeout=LIMIT_SECS, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return [f"runs longer than {LIMIT_SECS} s"]
    seconds, found = time.monotonic() - started, []
    error = process.stderr.decode(errors="replace")
    if process.returncode != 2:
        found.append(f"exit {process.returncode}, expected 2")
    if error.count("\n") != 1 or not error.endswith("\n"):
        found.append(f"{error.count(chr(10))} lines on standard error, expected 1")
    if not error.startswith(f"{command[0]}: "):
        found.append(f"standard error begins without '{command[0]}: '")
    if any(ord(c) < 32 and c != "\n" for c in error):
        found.append("control characters on standard error")
    if fragment not in error:
        found.append(f"'{fragment}' is not in the message")
    if any(word in error for word in ("what():", "terminate", "std::", "HDF5-DIAG", "_check", "policy is broken")):
        found.append("words of the implementation in the message")
    if process.stdout:
        found.append(f"{len(process.stdout)} bytes on standard output")
    after = snapshot(folder)
    if after != before:
        found.append("files changed: " + ", ".join(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))))
        undo(before, after, originals)
    return [f"{sentence}  ({seconds:.1f} s)\n     {error.strip()}" for sentence in found]


def main(wanted):
    with tempfile.TemporaryDirectory(prefix="kvscope_bad_input_") as temporary:
        folder = pathlib.Path(temporary)
        cases = Cases(folder)
        good = tiny_gguf.model()
        model, trace, results = cases.file("tiny.gguf", good), folder / "tiny.kvtrace.h5", folder / "replay.h5"
        # The same commands without the mistakes work.
        programs.expect("kvscope-capture", "--model", model, "--prompt", "In the beginning God created the heaven and the earth.", "--max-new", 4, "-o", trace)
        programs.expect("kvscope-replay", "run", trace, "--policy", "snapkv", "--keep-fraction", 0.5, "-o", results)
        rows_only = folder / "rows.kvtrace.h5"
        programs.expect("kvscope", "info", trace)
        programs.expect("kvscope-capture", "--model", model, "--prompt", "Why?", "--max-new", 4, "--level", "rows", "-o", rows_only)
        add_models(cases, good)
        add_captures(cases, model, trace)
        add_traces(cases, trace)
        add_replays(cases, trace)
        cases.add("replay a trace without q, k, v", "holds no q, k, v", "kvscope-replay", "run", rows_only, "--policy", "snapkv", "--keep-fraction", 0.5, "-o", folder / "new.h5")
        add_live(cases, model)
        add_results(cases, trace, results)
        originals = {path: path.read_bytes() for path in (model, *sorted(folder.glob("split-*")), trace, results)}
        failed = ran = 0
        for name, fragment, command in cases.rows:
            if wanted and not any(word in name for word in wanted):
                continue
            ran += 1
            found = faults(command, fragment, folder, originals)
            if found:
                failed += 1
                print(f"FAILED {name}: {' '.join(map(str, command)).replace(temporary + '/', '')!r}\n  - " + "\n  - ".join(found))
        print(f"{failed} of {ran} cases failed")
        return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
