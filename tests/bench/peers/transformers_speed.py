# SPDX-License-Identifier: Apache-2.0
"""transformers, sdpa, float32: prefill tokens a second, and decode tokens a second at that depth. Medians over the repeats."""
import statistics

import torch

import common


def main():
    parser = common.arguments(__doc__, lengths=[2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decode", type=int, default=16, help="tokens decoded after each prefill")
    options = parser.parse_args()
    text, tokenizer = common.prose(options.text), common.load_tokenizer(options.model)
    model = common.load_model(options.model, options.threads, "sdpa")
    ids = torch.tensor([common.ids_of(tokenizer, text[:max(options.lengths) * 8])])
    model(ids[:, :1024], logits_to_keep=1)  # warm-up
    for length in options.lengths:
        prefill_secs, step_secs = [], []
        for _ in range(options.repeats):
            with common.Seconds() as seconds:
                out = model(ids[:, :length], use_cache=True, logits_to_keep=1)
            prefill_secs.append(seconds.value)
            for _ in range(options.decode):
                with common.Seconds() as seconds:
                    out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
                step_secs.append(seconds.value)
        common.print_figure(peer="transformers sdpa float32", tokens=length, threads=options.threads, repeats=options.repeats,
                            prefill_secs=statistics.median(prefill_secs), prefill_tokens_per_sec=length / statistics.median(prefill_secs),
                            decode_tokens_per_sec=1 / statistics.median(step_secs))


if __name__ == "__main__":
    main()
