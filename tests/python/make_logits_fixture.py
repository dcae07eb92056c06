# SPDX-License-Identifier: Apache-2.0
"""Writes tests/capture/fixtures/logits.{json,bin}: what transformers computes in float32 from the same GGUF weights.

    make_logits_fixture.py --model SmolLM2-135M-Instruct.Q4_1.gguf [-o tests/capture/fixtures/logits]

The file format is that of fixture_file.py. The header's "prompts" is a list; each prompt has
    name          short, prose (300 tokens of the KJV) or needle (chat template, about 1,024 tokens)
    ids           token ids; all logits come from one prefill of these
    logits        {"positions": [...], "array": f32 [positions, vocab]}: raw logits of the next token after each position
    greedy        {"ids": [48], "top2_ids": [48][2], "top2_logprobs": [48][2]}: decoded token by token with a cache, end token not respected
and prose has two parts more, for the Kullback-Leibler divergence:
    logprobs      {"positions", "array": u16 [positions, vocab], "minimum": [positions], "step": [positions]}: full distributions;
                  logprob = minimum + step * code. The rounding (at most half a step) costs less than 1e-7 in KL: "kl_of_rounding".
    top           {"count": 64, "ids": i32 [tokens, 64], "logprobs": f32 [tokens, 64], "logsumexp": f32 [tokens]} at every position
noise.max_relative_difference: eager against sdpa, max |difference| / max |logit| over the stored logits: what float32 alone leaves open.
"""
import hashlib
import pathlib
import sys

import numpy
import torch

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/bench/peers"))
import common  # noqa: E402
from fixture_file import FixtureFile  # noqa: E402

SHORT = ("The lighthouse keeper climbed 217 steps every evening, lit the lamp, and wrote one line in his log: wind, weather, ships. "
         "On the third of May he wrote something else.")
GREEDY_STEPS = 48
TOP = 64


def greedy(model, ids):
    """48 greedy tokens with the two best log-probabilities of each step."""
    result = {"ids": [], "top2_ids": [], "top2_logprobs": []}
    out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    for _ in range(GREEDY_STEPS):
        best = torch.log_softmax(out.logits[0, -1].double(), dim=-1).topk(2)
        result["ids"].append(int(best.indices[0]))
        result["top2_ids"].append(best.indices.tolist())
        result["top2_logprobs"].append([round(value, 7) for value in best.values.tolist()])
        out = model(torch.tensor([[result["ids"][-1]]]), past_key_values=out.past_key_values, use_cache=True)
    return result


def add_distributions(fixture, logits, positions):
    """Full log-probabilities at `positions`, 16 bits each, and the header part that describes them."""
    logprobs = torch.log_softmax(logits.double(), dim=-1).numpy()[positions]
    minimum = logprobs.min(axis=1, keepdims=True)
    step = (logprobs.max(axis=1, keepdims=True) - minimum) / 65535
    codes = numpy.rint((logprobs - minimum) / step)
    rounded = minimum + step * codes
    rounded -= numpy.log(numpy.exp(rounded).sum(axis=1, keepdims=True))
    kl = (numpy.exp(logprobs) * (logprobs - rounded)).sum(axis=1).max()
    return {"positions": positions, "array": fixture.add("prose_logprobs", codes, "u16"), "minimum": minimum[:, 0].tolist(), "step": step[:, 0].tolist(), "kl_of_rounding": float(kl)}


def add_top(fixture, logits):
    logsumexp = torch.logsumexp(logits.double(), dim=-1)
    best = torch.log_softmax(logits.double(), dim=-1).topk(TOP)
    return {"count": TOP, "ids": fixture.add("prose_top_ids", best.indices.numpy(), "i32"), "logprobs": fixture.add("prose_top_logprobs", best.values.numpy(), "f32"),
            "logsumexp": fixture.add("prose_logsumexp", logsumexp.numpy(), "f32")}


def main():
    parser = common.arguments("reference logits by transformers in float32")
    parser.add_argument("-o", "--output", default=REPOSITORY / "tests/capture/fixtures/logits")
    options = parser.parse_args()
    tokenizer, text = common.load_tokenizer(options.model), common.prose(options.text)
    model = common.load_model(options.model, options.threads, "eager")
    twin = common.load_model(options.model, options.threads, "sdpa")
    needle_ids, number = common.needle_prompt(tokenizer, text, 1024)
    prompts = [("short", common.ids_of(tokenizer, SHORT), (20, -1)), ("prose", common.ids_of(tokenizer, text[:4000])[:300], (150, -1)), ("needle", needle_ids, (512, -1))]

    fixture = FixtureFile(format="kvscope.fixture.logits", model_sha256=hashlib.sha256(pathlib.Path(options.model).read_bytes()).hexdigest(),
                          made_by=f"transformers {common.transformers.__version__}, torch {torch.__version__}, eager attention, float32", vocab=model.config.vocab_size, needle_answer=number)
    noise, described = 0.0, []
    for name, ids, positions in prompts:
        logits = model(torch.tensor([ids])).logits[0]
        positions = [position % len(ids) for position in positions]
        other = twin(torch.tensor([ids])).logits[0]
        noise = max(noise, float((logits - other)[positions].abs().max() / logits[positions].abs().max()))
        prompt = {"name": name, "ids": ids, "logits": {"positions": positions, "array": fixture.add(f"{name}_logits", logits[positions].numpy(), "f32")}, "greedy": greedy(model, ids)}
        if name == "prose":
            prompt["logprobs"] = add_distributions(fixture, logits, [0, 1, 2, 7, 20, 40, 61, 83, 104, 128, 160, 187, 213, 239, 270, 299])
            prompt["top"] = add_top(fixture, logits)
        described.append(prompt)
        gap = min(first - second for first, second in prompt["greedy"]["top2_logprobs"])
        print(f"{name}: {len(ids)} tokens, smallest gap of the greedy steps {gap:.4f}, answer {tokenizer.decode(prompt['greedy']['ids'])!r}")
    fixture.header |= {"noise": {"max_relative_difference": noise}, "prompts": described}
    fixture.write(options.output)
    print(f"noise {noise:.2e}, KL of rounding {described[1]['logprobs']['kl_of_rounding']:.2e}")


if __name__ == "__main__":
    main()
