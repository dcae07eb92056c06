#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Captures long prompts and says what they cost: seconds per token against context, memory and bytes on disk, and a picture of it.

    long_context.py --model long-context.gguf [--contexts 4096,8192,16384,32768] [-o results.jsonl] [--picture long_context.svg]
    long_context.py --read results.jsonl --picture long_context.svg      draws again what was measured

The model is one of tests/python/write_random_gguf.py (or any other). A token costs a + b * context: a for the weights it is multiplied
with, b for the keys and values it attends to. The lines of the picture are fitted to contexts up to a quarter of the longest only;
the points beyond show whether time grows as that says. Prefill: each chunk of the longest run, its seconds over its tokens, at the mean
number of tokens they see. Decode: the median step of each run, at its context. --clock cpu takes the processor's seconds of all threads
instead of the clock's, for a machine that others use.
"""
import argparse
import json
import os
import pathlib
import platform
import pty
import re
import select
import subprocess
import tempfile
import time

import h5py
import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
FITTED_SHARE = 0.25
CHUNK = 512
STEPS = 128


def cpu_secs(pid):
    """Of all threads, those that ended too: clock_getcpuclockid's number for another process, which Python does not offer by name."""
    return time.clock_gettime(~pid << 3 | 2)


def capture(options, context, folder):
    """One run: {figures} with the time of every progress line, read from a terminal of its own."""
    trace = folder / f"{context}.kvtrace.h5"
    command = [options.capture, "--model", options.model, "--device", "cpu", "--task", "niah", "--haystack", options.haystack,
               "--context", str(context), "--max-new", str(STEPS), "--prefill-chunk", str(CHUNK), "--level", options.level, "-o", str(trace), *options.more]
    terminal, inside = pty.openpty()
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=inside, text=True)
    os.close(inside)
    seen, text = [], ""
    while select.select([terminal], [], [], 3600)[0]:
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the other side is closed
            break
        matches = list(re.finditer(r"(\d+)/\d+ tokens ", text))
        seen += [(int(match[1]), time.monotonic(), cpu_secs(process.pid)) for match in matches]
        text = text[matches[-1].end():] if matches else text
    os.close(terminal)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}\n{output}{text}")
    with h5py.File(trace) as file:
        steps = numpy.diff(file["steps/time_ns"][:]) * 1e-9
        prompt = int(file["tokens"].attrs["prompt_tokens"])
    chunks = [((first[0] + last[0]) / 2, last[1] - first[1], last[2] - first[2]) for first, last in zip(seen, seen[1:])
              if last[0] <= prompt and last[0] - first[0] == CHUNK]
    decoded = [moment for moment in seen if moment[0] > prompt]
    figures = {"context": prompt, "level": options.level, "to_first_chunk_secs": seen[0][1] - begin, "whole_secs": time.monotonic() - begin, "steps": len(steps) + 1,
               "decode_secs_per_token": float(numpy.median(steps)), "decode_cpu_secs_per_token": (decoded[-1][2] - decoded[0][2]) / (decoded[-1][0] - decoded[0][0]),
               "prefill_tokens_per_s": float(re.search(r"prefill (\d+)", output)[1]), "peak_rss_mb": usage.ru_maxrss / 1024, "trace_mb": trace.stat().st_size / 1e6,
               "chunk_context": [x for x, _, _ in chunks], "chunk_secs_per_token": [wall / CHUNK for _, wall, _ in chunks], "chunk_cpu_secs_per_token": [cpu / CHUNK for _, _, cpu in chunks]}
    trace.unlink()
    return figures


def fitted(points):
    """(a, b) of seconds = a + b * context through the points up to a quarter of the longest context; relative errors count alike."""
    near = numpy.array([point for point in points if point[0] <= FITTED_SHARE * max(x for x, _ in points)])
    matrix = numpy.stack([numpy.ones(len(near)), near[:, 0]], axis=1) / near[:, 1:]
    return numpy.linalg.lstsq(matrix, numpy.ones(len(near)), rcond=None)[0]


def series(lines, clock):
    runs, secs = [line for line in lines if "context" in line], "cpu_secs" if clock == "cpu" else "secs"
    longest = max(runs, key=lambda run: run["context"])
    return {"prefill": list(zip(longest["chunk_context"], longest[f"chunk_{secs}_per_token"])),
            "decode": [(run["context"], run[f"decode_{secs}_per_token"]) for run in runs]}


def growth(lines, clock):
    """What the picture says, as figures: the fit and how far it is off at the longest context."""
    for name, points in series(lines, clock).items():
        a, b = fitted(points)
        x, y = max(points)
        yield {"claim": "time per token grows with context as a + b * context", "part": name, "clock": clock, "a_us": a * 1e6,
               "b_us_per_1k_tokens": b * 1e9, "fitted_up_to": FITTED_SHARE * x, "longest": x, "measured_us": y * 1e6, "predicted_us": (a + b * x) * 1e6, "measured_over_predicted": y / (a + b * x)}


def picture(lines, clock):
    """An SVG: two series of points over context and the lines that their near parts predict."""
    width, height, left, top, right, bottom = 760, 400, 70, 40, 20, 50
    data = series(lines, clock)
    longest = max(x for points in data.values() for x, _ in points)
    highest = max(max(y for _, y in points) for points in data.values()) * 1.08

    def at(x, y):
        return left + (width - left - right) * x / (longest * 1.03), height - bottom - (height - top - bottom) * y / highest

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="DejaVu Sans, sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
             f'<text x="{left}" y="22" font-size="14" fill="#222222">{"Processor milliseconds" if clock == "cpu" else "Milliseconds"} per token against context: {lines[0]["model"]}</text>']
    power = 10 ** numpy.floor(numpy.log10(highest * 1e3 / 5))
    stride = power * min((1, 2, 5, 10), key=lambda step: abs(step * power - highest * 1e3 / 5))
    for value in numpy.arange(0, highest * 1e3, stride):
        x, y = at(0, value / 1e3)
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#dddddd"/>'
                     f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{value:g}</text>')
    for value in range(0, int(longest * 1.03), 4096):
        x, y = at(value, 0)
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y + 4:.1f}" stroke="#555555"/>'
                     f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle" fill="#555555">{value // 1024}k</text>')
    parts.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 10}" text-anchor="middle" fill="#555555">tokens that a token attends to</text>')
    for row, (name, points, colour) in enumerate((("decode", data["decode"], "#c2410c"), ("prefill, chunks of 512", data["prefill"], "#1d4ed8"))):
        a, b = fitted(points)
        near = longest * FITTED_SHARE
        (x1, y1), (x2, y2), (x3, y3) = at(0, a), at(longest, a + b * longest), at(near, a + b * near)
        parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x3:.1f}" y2="{y3:.1f}" stroke="{colour}" stroke-width="1.5"/>'
                     f'<line x1="{x3:.1f}" y1="{y3:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.5" stroke-dasharray="5 4"/>')
        parts += ['<circle cx="{:.1f}" cy="{:.1f}" r="3.2" fill="{}"/>'.format(*at(x, y), colour) for x, y in points]
        y = top + 14 + 20 * row
        parts.append(f'<circle cx="{left + 20}" cy="{y - 4}" r="3.2" fill="{colour}"/>'
                     f'<text x="{left + 32}" y="{y}" fill="#222222">{name}: {a * 1e3:.3g} ms + {b * 1e6:.3g} ms per 1,000 tokens, '
                     f'measured {max(points)[1] / (a + b * max(points)[0]):.2f} of that at {max(points)[0] / 1024:.0f}k</text>')
    parts.append(f'<text x="{left + 32}" y="{top + 54}" fill="#555555">points: measured; lines: fitted where solid (a quarter of the contexts), predicted where dashed</text></svg>')
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--capture", default=str(ROOT / "build/bin/kvscope-capture"))
    parser.add_argument("--haystack", default=str(ROOT / "traces/cache/kjv.txt"))
    parser.add_argument("--contexts", default="1024,2048,4096,8192,16384,32768")
    parser.add_argument("--level", default="qkv+rows")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--folder", help="for the traces while they are made; default the system's")
    parser.add_argument("--read", help="results of an earlier run instead of a new one")
    parser.add_argument("-o", "--output")
    parser.add_argument("--picture")
    parser.add_argument("more", nargs="*", help="further options of kvscope-capture, after --")
    options = parser.parse_args()
    if options.read:
        lines = [json.loads(line) for line in pathlib.Path(options.read).read_text(encoding="utf-8").splitlines()]
    else:
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), platform.processor())
        lines = [{"benchmark": "long context", "machine": cpu, "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0],
                  "model": pathlib.Path(options.model).stem, "options": options.more}]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for context in map(int, options.contexts.split(",")):
                lines.append(capture(options, context, pathlib.Path(folder)))
                print({key: value for key, value in lines[-1].items() if not key.startswith("chunk_")}, flush=True)
        lines += [line for clock in ("wall", "cpu") for line in growth(lines, clock)]
        lines.append({"load_after": os.getloadavg()[0]})
    if options.output:
        pathlib.Path(options.output).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for line in growth(lines, options.clock):
        print(line)
    if options.picture:
        pathlib.Path(options.picture).write_text(picture(lines, options.clock), encoding="utf-8")


if __name__ == "__main__":
    main()
