# SPDX-License-Identifier: Apache-2.0
"""llama.cpp on the same GGUF, through llama-cpp-python: prefill tokens a second, and decode tokens a second at that depth.

On CPUs with AMX, weights are kept out of llama.cpp's repacked buffers: its AMX product crashes there at the first prefill
(ggml_backend_amx_mul_mat; https://github.com/ggml-org/llama.cpp/issues/20824). For Q4_1 nothing else is repacked, so the rest of its
code (AVX-512, VNNI) is unchanged; the figure says amx_avoided.
"""
import argparse
import pathlib
import statistics

import llama_cpp

import common

CACHE_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0}


def avoid_amx():
    """Makes new models use plain weight buffers where the CPU has AMX; true if so."""
    if "amx_int8" not in pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"):
        return False
    default_params = llama_cpp.llama_model_default_params

    def plain_params():
        params = default_params()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_cpp.llama_model_default_params = plain_params
    return True


def main():
    parser = common.arguments(__doc__, lengths=[2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decode", type=int, default=32, help="tokens decoded after each prefill")
    parser.add_argument("--flash-attention", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache-type", choices=list(CACHE_TYPES), default="f16", help="of K and V; other than f16 needs flash attention")
    options = parser.parse_args()
    text = common.prose(options.text)
    amx_avoided = avoid_amx()
    kind = CACHE_TYPES[options.cache_type]
    for length in options.lengths:
        llama = llama_cpp.Llama(options.model, n_ctx=length + options.decode, n_batch=512, n_threads=options.threads, n_threads_batch=options.threads,
                                flash_attn=options.flash_attention, type_k=kind, type_v=kind, verbose=False)
        ids = llama.tokenize(text[:length * 8].encode("utf-8"), add_bos=False)[:length]
        llama.eval(ids[:64])  # warm-up
        prefill_secs, step_secs = [], []
        for _ in range(options.repeats):
            llama.reset()
            with common.Seconds() as seconds:
                llama.eval(ids)
            prefill_secs.append(seconds.value)
            for _ in range(options.decode):
                with common.Seconds() as seconds:
                    llama.eval([llama.sample(temp=0.0)])
                step_secs.append(seconds.value)
        common.print_figure(peer=f"llama.cpp (llama-cpp-python {llama_cpp.__version__})", tokens=length, threads=options.threads, repeats=options.repeats,
                            flash_attention=options.flash_attention, cache_type=options.cache_type, amx_avoided=amx_avoided, prefill_secs=statistics.median(prefill_secs),
                            prefill_tokens_per_sec=length / statistics.median(prefill_secs), decode_tokens_per_sec=1 / statistics.median(step_secs))
        llama.close()


if __name__ == "__main__":
    main()
