# SPDX-License-Identifier: Apache-2.0
"""What a sweep over cache policies costs a user today: kvpress 0.5.5, one needle prompt, one prefill and one answer per run.

The question is in sight: the whole prompt is prefilled under the press, then the answer is decoded greedily, always 16 tokens.
kvpress's own pipeline is not used: with transformers 5.2 and sdpa it makes one mask from layer 0, which fails for PyramidKV's unequal
layers; token by token every press runs. ObservedAttention needs eager attention; the model is switched, not loaded again.
RandomPress gets no seed of its own (it would draw the same positions in every layer). AdaKV keeps the cache whole and masks keys.
"""
import kvpress
import torch
from transformers import DynamicCache

import common

POLICIES = {
    "random": kvpress.RandomPress,
    "streaming_llm": kvpress.StreamingLLMPress,
    "snapkv": kvpress.SnapKVPress,
    "tova": kvpress.TOVAPress,
    "observed_attention": kvpress.ObservedAttentionPress,
    "pyramidkv": kvpress.PyramidKVPress,
    "adakv": lambda ratio: kvpress.AdaKVPress(kvpress.SnapKVPress(ratio)),
}


def answer(model, ids, num_tokens, press=None):
    """Greedy answer ids after one prefill, compressed by `press` if there is one."""
    cache = DynamicCache()
    prompt = torch.tensor([ids])
    if press is None:
        hidden = model.model(prompt, past_key_values=cache).last_hidden_state
    else:
        with press(model):
            hidden = model.model(prompt, past_key_values=cache).last_hidden_state
    answer_ids = [int(model.lm_head(hidden[0, -1]).argmax())]
    for position in range(len(ids), len(ids) + num_tokens - 1):  # positions go on from the whole prompt
        out = model(torch.tensor([answer_ids[-1:]]), past_key_values=cache, position_ids=torch.tensor([[position]]))
        answer_ids.append(int(out.logits[0, -1].argmax()))
    return answer_ids


def main():
    parser = common.arguments(__doc__, lengths=[4096])
    parser.add_argument("--compression-ratios", type=float, nargs="+", default=[0.5, 0.75], help="the part removed")
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    options = parser.parse_args()
    text, tokenizer = common.prose(options.text), common.load_tokenizer(options.model)
    model = common.load_model(options.model, options.threads, "sdpa")
    torch.manual_seed(0)
    model(torch.tensor([common.ids_of(tokenizer, text[:1000])]))  # warm-up
    for length in options.lengths:
        ids, number = common.needle_prompt(tokenizer, text, length)
        runs = [("full", None)] + [(policy, ratio) for policy in options.policies for ratio in options.compression_ratios]
        sweep_secs = 0.0
        for policy, ratio in runs:
            model.set_attn_implementation("eager" if policy == "observed_attention" else "sdpa")
            with common.Seconds() as seconds:
                answer_ids = answer(model, ids, options.answer, None if ratio is None else POLICIES[policy](ratio))
            sweep_secs += 0 if ratio is None else seconds.value
            answer_text = tokenizer.decode(answer_ids)
            common.print_figure(peer="kvpress 0.5.5", policy=policy, compression_ratio=ratio, prompt_tokens=len(ids), threads=options.threads,
                                run_secs=seconds.value, found=number in answer_text, answer=answer_text)
        common.print_figure(peer="kvpress 0.5.5", policy="sweep", runs=len(runs) - 1, prompt_tokens=len(ids), threads=options.threads, sweep_secs=sweep_secs)


if __name__ == "__main__":
    main()
