#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every model family: q, k, v and log-probabilities that kvscope-capture records of a tiny model against those of transformers.

    families_test.py [CASE ...]

Models are written anew (tiny_models.py), the expected values are checked in (make_families_fixture.py). Each prompt runs in one chunk,
in chunks of 7 tokens, so that windows and chunks cross as they do in long prompts, and token by token. Skipped (77) where the gguf
package cannot be had.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy

import fixture_file
import programs
import read_trace_test
import tiny_models

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "capture/fixtures/families"
# max |difference| / max |expected| of each array. Rounding leaves up to 5e-6; what is smallest among the mistakes tried, the exact GELU
# instead of its tanh form, makes 1e-4, and a window one token too long 1e-1.
TOLERANCE = 5e-5
LOGPROB_TOLERANCE = 3e-4  # nats; rounding leaves up to 5e-5
CHUNKS = (512, 7, 1)


def write_models(folder, names):
    fetched = subprocess.run([pathlib.Path(__file__).with_name("fetch_gguf")], capture_output=True, text=True, check=False, timeout=300)
    if fetched.returncode != 0:
        programs.skip(fetched.stderr.strip())
    subprocess.run(["/usr/bin/python3", "-B", pathlib.Path(__file__).with_name("write_tiny_models.py"), folder, *names],
                   env={**os.environ, "PYTHONPATH": fetched.stdout.strip()}, check=True, timeout=300)


def difference(found, expected, what):
    programs.check(found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}")
    programs.check(numpy.isfinite(found).all(), f"{what}: not finite")
    return float(abs(found.astype("f8") - expected).max() / abs(expected).max())


def compare(case, trace, header, arrays):
    """The largest differences {q, k, v, logprob} of one trace."""
    worst = dict.fromkeys(("q", "k", "v"), 0.0)
    with h5py.File(trace) as file:
        ids = file["tokens/id"][:].tolist()
        programs.check(ids == header["ids"], f"{case.name}: token ids {ids[:8]} ..., expected {header['ids'][:8]} ...")
        for layer, names in header["layers"].items():
            group = file[f"layer/{int(layer):02d}"]
            for part in "qkv":
                expected = arrays[names[part]]
                programs.check(group[part].dtype == numpy.float32, f"{case.name}: {part} is {group[part].dtype}, expected float32")
                rows = numpy.searchsorted(group["q_token"][:], header["tokens"]) if part == "q" else header["tokens"]
                found = group[part][:][:, rows]
                worst[part] = max(worst[part], difference(found, expected, f"{case.name}: layer {layer} {part}"))
        logprobs = file["tokens/logprob"][:][1:]
    expected = arrays[header["next_logprobs"]]
    programs.check(logprobs.shape == expected.shape and numpy.isfinite(logprobs).all(),
                   f"{case.name}: {numpy.isfinite(logprobs).sum()} log-probabilities, expected {len(expected)}")
    return {**worst, "logprob": float(abs(logprobs - expected).max())}


def check_case(case, folder):
    """Prints the figures of every run; returns what is wrong, a list of texts."""
    header, arrays = fixture_file.read(FIXTURES / case.name)
    programs.check(tiny_models.weights_sha256(case) == header["weights_sha256"], f"{case.name}: other weights than the fixture's; run make_families_fixture.py again")
    wrong = []
    for chunk in CHUNKS:
        trace = folder / f"{case.name}_{chunk}.kvtrace.h5"
        process = programs.run("kvscope-capture", "--model", folder / f"{case.name}.gguf", "--device", "cpu", "--kv-dtype", "f32", "--logprobs", "--prefill-chunk", chunk,
                               "--prompt", case.prompt, "--max-new", 0, "-o", trace)
        if process.returncode != 0:
            print(f"{case.name}: exit {process.returncode}: {process.stderr.strip()}")
            return [f"{case.name} was not captured"]
        figures = compare(case, trace, header, arrays)
        print(f"{case.name}, chunks of {chunk}: " + ", ".join(f"{name} {value:.1e}" for name, value in figures.items()), flush=True)
        wrong += [f"{case.name}, chunks of {chunk}: {name} differs by {value:.1e}" for name, value in figures.items()
                  if not value < (LOGPROB_TOLERANCE if name == "logprob" else TOLERANCE)]
    return wrong + check_decode(case, folder)


def check_decode(case, folder):
    """Decoded tokens: the recorded weights must follow from q, k and lse under the layer's rule, which is what verify checks and, apart from it, a reader in h5py."""
    trace, text = folder / f"{case.name}_decode.kvtrace.h5", folder / f"{case.name}.txt"
    text.write_text(case.prompt, encoding="utf-8")  # its second half is decoded token by token, whatever the model would say
    programs.expect("kvscope-capture", "--model", folder / f"{case.name}.gguf", "--device", "cpu", "--kv-dtype", "f32", "--task", "text", "--file", text, "--context", 64, "-o", trace)
    process = programs.run("kvscope", "verify", trace)
    if process.returncode != 0:
        print(process.stdout + process.stderr)
    read = read_trace_test.main(str(trace))
    return ([f"{case.name}: verify exits {process.returncode}"] if process.returncode != 0 else []) + ([f"{case.name}: the h5py reader exits {read}"] if read != 0 else [])


def check_refused(folder, model):
    """Multi-head latent attention is refused by name in one line, not misread."""
    process = programs.run("kvscope-capture", "--model", folder / f"{model}.gguf", "--prompt", "a", "-o", folder / f"{model}.kvtrace.h5")
    programs.check(process.returncode == 2 and f"'{model}'" in process.stderr and process.stderr.count("\n") == 1,
                   f"{model}: exit {process.returncode}, expected 2 and one line naming it, found {process.stderr!r}")
    print(f"{model}: {process.stderr.strip()}")


def main(*names):
    with tempfile.TemporaryDirectory(prefix="kvscope_families_") as temporary:
        folder = pathlib.Path(temporary)
        write_models(folder, names)
        wrong = []
        for case in tiny_models.CASES:
            if not names or case.name in names:
                wrong += check_case(case, folder)
        if not names:
            check_refused(folder, "deepseek2")
    programs.check(not wrong, "; ".join(wrong))
    print("every family agrees with transformers")


if __name__ == "__main__":
    main(*sys.argv[1:])
