# SPDX-License-Identifier: Apache-2.0
"""kvscope's decoder and llama.cpp in turn on the same GGUF: prefill and decode tokens a second of each, and the ratios.

    llama_decode.py --bench build/bin/decoder_bench --model M.gguf --text T.txt [--threads 2] [--lengths 1 512 2048]

Every round measures kvscope with float and with int8 activations, alone and recording a trace, and llama.cpp with and without flash
attention; figures are medians over rounds, llama.cpp's those of its better way. The seconds of processor time beside them are what a
busy machine distorts less.
"""
import argparse
import json
import resource
import statistics
import subprocess
import time

import llama_cpp

KVSCOPE = ("float", "int8", "float+trace", "int8+trace")


def cpu_secs():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Kvscope:
    def __init__(self, options):
        self.process = subprocess.Popen([options.bench, options.model, options.text, str(options.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        print(json.dumps({"decoder": "kvscope", **self.line()}), flush=True)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("decoder_bench ended early")
        return json.loads(line)

    def measure(self, name, length, steps):
        self.process.stdin.write(f"{name} {length} {steps}\n")
        self.process.stdin.flush()
        return self.line()


class Llama:
    def __init__(self, options, length, flash_attention):
        self.llama = llama_cpp.Llama(options.model, n_ctx=length + options.steps + 8, n_batch=512, n_threads=options.threads,
                                     n_threads_batch=options.threads, flash_attn=flash_attention, verbose=False)
        with open(options.text, encoding="utf-8") as file:
            self.ids = self.llama.tokenize(file.read(length * 8 + 64).encode("utf-8"), add_bos=False)[:length]
        self.llama.eval(self.ids[:1])  # the first use of its memory

    def measure(self, steps):
        self.llama.reset()
        begin, cpu_begin = time.monotonic(), cpu_secs()
        self.llama.eval(self.ids)
        figures = {"prefill_secs": time.monotonic() - begin, "prefill_cpu_secs": cpu_secs() - cpu_begin}
        begin, cpu_begin = time.monotonic(), cpu_secs()
        for _ in range(steps):
            self.llama.eval([self.llama.sample(temp=0.0)])
        return {**figures, "decode_secs": time.monotonic() - begin, "decode_cpu_secs": cpu_secs() - cpu_begin}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="decoder_bench of this build")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 512, 2048], help="prompt tokens; decode goes on from there")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    kvscope = Kvscope(options)
    for length in options.lengths:
        peers = {"llama.cpp": Llama(options, length, False), "llama.cpp flash attention": Llama(options, length, True)}
        rounds = {name: [] for name in (*KVSCOPE, *peers)}
        for _ in range(options.rounds):
            for name in KVSCOPE:
                rounds[name].append(kvscope.measure(name, length, options.steps))
            for name, peer in peers.items():
                rounds[name].append(peer.measure(options.steps))
        median = {name: {key: statistics.median(figures[key] for figures in measured) for key in measured[0]} for name, measured in rounds.items()}
        for name, figures in median.items():
            print(json.dumps({"decoder": name, "threads": options.threads, "prompt_tokens": length, "steps": options.steps, "rounds": options.rounds,
                              "prefill_tokens_per_s": round(length / figures["prefill_secs"], 1),
                              "decode_tokens_per_s": round(options.steps / figures["decode_secs"], 1),
                              "prefill_cpu_ms_per_token": round(1e3 * figures["prefill_cpu_secs"] / length, 3),
                              "decode_cpu_ms_per_token": round(1e3 * figures["decode_cpu_secs"] / options.steps, 3)}), flush=True)
        for what in ("prefill", "decode"):
            best = {kind: min(median[name][f"{what}_{kind}secs"] for name in peers) for kind in ("", "cpu_")}
            print(json.dumps({"claim": f"{what} speed against llama.cpp's better way", "threads": options.threads, "prompt_tokens": length,
                              **{name: round(best[""] / median[name][f"{what}_secs"], 3) for name in KVSCOPE},
                              **{f"{name} by cpu time": round(best["cpu_"] / median[name][f"{what}_cpu_secs"], 3) for name in KVSCOPE[:2]}}), flush=True)
    kvscope.process.stdin.close()


if __name__ == "__main__":
    main()
