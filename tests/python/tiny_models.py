# SPDX-License-Identifier: Apache-2.0
"""Every model family as a tiny model of random weights: a table of cases, their prompts, vocabulary and weights. Needs numpy only.

A case's `config` is what transformers' own configuration class takes. Its weights are named and laid out as in that family's checkpoints;
write_tiny_models.py writes them to GGUF, make_families_fixture.py runs them in transformers. Both see the same bits: a tensor's values
follow from the raw words of a PCG64 generator that is seeded with the case's and the tensor's name, on any numpy and in any order.

Sizes are small, magnitudes are not: scores spread over several units, norm weights are not 1, biases not 0, epsilons not negligible, so
that a forgotten window, soft cap, scale, bias or norm moves q, k, v or logits far beyond rounding.
"""
import dataclasses
import hashlib
import zlib

import numpy

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB = 272
SHORT = "In May the river rose over both banks; 9 boats broke loose from the pier."
LONG = (SHORT + " The miller counted his sacks, then the nails in the door, then the stairs down to the wheel, and found one of each gone. "
        "He wrote it all into a grey book and put the book under the bed, where it stayed dry.")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    architecture: str              # general.architecture of the GGUF
    config_class: str              # of transformers
    model_class: str
    config: dict
    layers: tuple                  # whose q, k, v are compared
    prompt: str = SHORT
    peer_differs: str = ""         # why llama.cpp computes something else from the same file; empty: it must agree

    @property
    def head_dim(self):
        return self.config.get("head_dim", self.config["hidden_size"] // self.config["num_attention_heads"])

    @property
    def is_gemma(self):
        return self.architecture.startswith("gemma")


def _config(layers, hidden=128, heads=4, ffn=160, positions=512, epsilon=1e-3, **more):
    return {"vocab_size": VOCAB, "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": heads // 2,
            "intermediate_size": ffn, "max_position_embeddings": positions, "rms_norm_eps": epsilon, **more}


def _rope(base, kind="default", **more):
    return {"rope_theta": base, "rope_type": kind, **more}


_UNTIED, _TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
_LLAMA = ("llama", "LlamaConfig", "LlamaForCausalLM")
_QWEN3MOE = ("qwen3moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM")
_QWEN2 = ("qwen2", "Qwen2Config", "Qwen2ForCausalLM")
_GEMMA = ("gemma", "GemmaConfig", "GemmaForCausalLM")
_GEMMA2 = ("gemma2", "Gemma2Config", "Gemma2ForCausalLM")
_GEMMA3 = ("gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM")
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
_CAPS = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 8.0}
_GEMMA3_ROPE = {"full_attention": _rope(1e6, "linear", factor=8.0), "sliding_attention": _rope(10000.0)}
_PHI3 = ("phi3", "Phi3Config", "Phi3ForCausalLM")
_NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # phi3's defaults lie outside a tiny vocabulary
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
_LONGROPE = {"short_factor": [1.0 + 0.05 * i for i in range(16)], "long_factor": [1.0 + 0.6 * i for i in range(16)]}


def _phi3(original, window=None, **rope):
    return _config(3, original_max_position_embeddings=original, sliding_window=window, rope_parameters=_rope(10000.0, **rope), **_UNTIED, **_NO_SPECIAL)


CASES = (
    Case("llama", *_LLAMA, _config(3, rope_parameters=_rope(10000.0), **_UNTIED), (0, 2)),
    Case("llama31", *_LLAMA, _config(3, rope_parameters=_rope(20000.0, "llama3", **_LLAMA3), **_TIED), (0, 2), LONG),
    Case("llama_linear", *_LLAMA, _config(3, rope_parameters=_rope(10000.0, "linear", factor=4.0), **_UNTIED), (0, 2), LONG),
    Case("llama_yarn", *_LLAMA, _config(3, rope_parameters=_rope(10000.0, "yarn", **_YARN), **_UNTIED), (0, 2), LONG),
    Case("llama_yarn_betas", *_LLAMA, _config(3, rope_parameters=_rope(10000.0, "yarn", beta_fast=8.0, beta_slow=2.0, **_YARN), **_UNTIED), (0, 2), LONG,
         peer_differs="llama.cpp has the usual 32 and 1 for architecture llama"),
    Case("mistral", "llama", "MistralConfig", "MistralForCausalLM", _config(3, head_dim=32, rope_parameters=_rope(10000.0), sliding_window=24, **_UNTIED), (0, 1, 2),
         peer_differs="llama.cpp has no window for architecture llama"),
    Case("mixtral", "llama", "MixtralConfig", "MixtralForCausalLM",
         _config(2, ffn=96, rope_parameters=_rope(1e6), num_local_experts=4, num_experts_per_tok=2, sliding_window=None, **_UNTIED), (0, 1)),
    Case("qwen2", *_QWEN2, _config(3, rope_parameters=_rope(1e6), **_TIED), (0, 2)),
    Case("qwen2_yarn", *_QWEN2, _config(3, rope_parameters=_rope(1e6, "yarn", **_YARN), **_UNTIED), (0, 2), LONG),
    Case("qwen3", "qwen3", "Qwen3Config", "Qwen3ForCausalLM", _config(3, hidden=96, head_dim=32, rope_parameters=_rope(1e6), **_TIED), (0, 2)),
    Case("qwen3moe", *_QWEN3MOE, _config(2, hidden=96, head_dim=32, rope_parameters=_rope(1e6), **_EXPERTS, **_UNTIED), (0, 1)),
    Case("gemma", *_GEMMA, _config(3, hidden=96, head_dim=32, epsilon=1e-2, rope_parameters=_rope(10000.0), hidden_act="gelu_pytorch_tanh", **_TIED), (0, 2)),
    Case("gemma2", *_GEMMA2, _config(4, hidden=96, head_dim=32, epsilon=1e-2, rope_parameters=_rope(10000.0), query_pre_attn_scalar=32, sliding_window=24, **_CAPS),
         (0, 1, 3)),
    # llama.cpp knows the 27B models of Gemma 2 and 3 by their 46 and 62 layers: only then is the scale that of hidden / heads (32 here) instead of head_dim (16).
    Case("gemma2_27b", *_GEMMA2, _config(46, hidden=64, heads=2, ffn=64, head_dim=16, epsilon=1e-2, rope_parameters=_rope(10000.0), query_pre_attn_scalar=32, sliding_window=24, **_CAPS),
         (0, 1, 45)),
    Case("gemma3", *_GEMMA3, _config(7, hidden=96, head_dim=32, epsilon=1e-2, query_pre_attn_scalar=32, sliding_window=24, rope_parameters=_GEMMA3_ROPE), (0, 5, 6), LONG),
    Case("gemma3_27b", *_GEMMA3, _config(62, hidden=64, heads=2, ffn=64, head_dim=16, epsilon=1e-2, query_pre_attn_scalar=32, sliding_window=24, rope_parameters=_GEMMA3_ROPE), (0, 5, 61)),
    Case("phi3", *_PHI3, _phi3(512), (0, 2)),
    Case("phi3_window", *_PHI3, _phi3(512, window=24), (0, 2), peer_differs="llama.cpp switches phi3's window off"),
    # A sequence longer than the original context takes the long factors. llama.cpp goes by the size of its context, at least 256.
    Case("phi3_longrope", *_PHI3, _phi3(64, kind="longrope", original_max_position_embeddings=64, **_LONGROPE), (0, 2), LONG),
    Case("phi3_shortrope", *_PHI3, _phi3(256, kind="longrope", original_max_position_embeddings=256, **_LONGROPE), (0, 2)),
)


def case_named(name):
    return next(case for case in CASES if case.name == name)


def byte_characters():
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 255 and b != 173]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def vocabulary(size=VOCAB):
    """Texts and GGUF token types: three control tokens, one token per byte, one merge that prompts here never meet, unused ones."""
    texts = [*SPECIAL, *byte_characters(), "qq"]
    types = [3] * len(SPECIAL) + [1] * 257
    unused = range(len(texts), size)
    return [*texts, *(f"[PAD{i}]" for i in unused)], types + [5] * len(unused), ["q q"]


def prompt_ids(text):
    return [len(SPECIAL) + byte for byte in text.encode()]


def _attention_shapes(case):
    c = case.config
    hidden, q_width, kv_width = c["hidden_size"], c["num_attention_heads"] * case.head_dim, c["num_key_value_heads"] * case.head_dim
    if case.architecture == "phi3":
        yield "self_attn.qkv_proj.weight", (q_width + 2 * kv_width, hidden)
    else:
        for name, width in (("q", q_width), ("k", kv_width), ("v", kv_width)):
            yield f"self_attn.{name}_proj.weight", (width, hidden)
            if case.architecture == "qwen2":
                yield f"self_attn.{name}_proj.bias", (width,)
    yield "self_attn.o_proj.weight", (hidden, q_width)
    if case.architecture in ("qwen3", "qwen3moe", "gemma3"):
        yield "self_attn.q_norm.weight", (case.head_dim,)
        yield "self_attn.k_norm.weight", (case.head_dim,)


def _ffn_shapes(case):
    c = case.config
    hidden, ffn = c["hidden_size"], c.get("moe_intermediate_size", c["intermediate_size"])
    if "num_local_experts" in c:  # Mixtral's names
        yield "block_sparse_moe.gate.weight", (c["num_local_experts"], hidden)
        for expert in range(c["num_local_experts"]):
            for name, shape in (("w1", (ffn, hidden)), ("w3", (ffn, hidden)), ("w2", (hidden, ffn))):
                yield f"block_sparse_moe.experts.{expert}.{name}.weight", shape
        return
    if case.architecture == "phi3":
        yield "mlp.gate_up_proj.weight", (2 * ffn, hidden)
        yield "mlp.down_proj.weight", (hidden, ffn)
        return
    if "num_experts" in c:
        yield "mlp.gate.weight", (c["num_experts"], hidden)
    for prefix in [f"experts.{expert}." for expert in range(c["num_experts"])] if "num_experts" in c else [""]:
        for name, shape in (("gate", (ffn, hidden)), ("up", (ffn, hidden)), ("down", (hidden, ffn))):
            yield f"mlp.{prefix}{name}_proj.weight", shape


def shapes(case):
    """(name, shape) of every tensor of the checkpoint, matrices [outputs, inputs]."""
    c = case.config
    hidden = c["hidden_size"]
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    norms = ["input_layernorm", "post_attention_layernorm"] + ["pre_feedforward_layernorm", "post_feedforward_layernorm"] * (case.architecture in ("gemma2", "gemma3"))
    for layer in range(c["num_hidden_layers"]):
        for name, shape in (*_attention_shapes(case), *_ffn_shapes(case), *((f"{name}.weight", (hidden,)) for name in norms)):
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (hidden,)
    if not c.get("tie_word_embeddings", case.is_gemma):
        yield "lm_head.weight", (c["vocab_size"], hidden)


def _uniform(seed, shape):
    """float64 in [-1, 1), 24 bits each, from raw words: numpy promises these and not its distributions."""
    words = numpy.random.PCG64(seed).random_raw(int(numpy.prod(shape)))
    return ((words >> numpy.uint64(40)).astype("f8") / 2**23 - 1).reshape(shape)


# Standard deviation of a matrix's outputs for inputs of mean square 1; the first fitting name counts.
_GAINS = (("embed_tokens", 3.0), ("lm_head", 3.0), ("q_proj", 1.6), ("k_proj", 1.6), ("qkv_proj", 1.6), ("o_proj", 0.7), (".gate.weight", 1.5), ("", 1.0))


def weights(case):
    """{name: float32 array} of the whole checkpoint."""
    result = {}
    for name, shape in shapes(case):
        values = _uniform(zlib.crc32(f"{case.name}/{name}".encode()), shape)
        if "norm" in name:
            # Gemma's checkpoints hold weight - 1. What is added to a residual a hundred times is kept small.
            values *= 0.4
            if case.is_gemma and "post_" in name and case.config["num_hidden_layers"] > 10:
                values = values * 0.5 - 0.6
            elif "q_norm" in name or "k_norm" in name:
                values += 0.5 if case.is_gemma else 1.5
            elif not case.is_gemma:
                values += 1
        elif name.endswith("bias"):
            values *= 1.5
        else:
            gain = next(gain for part, gain in _GAINS if part in name)
            values *= gain * (3 / shape[-1]) ** 0.5
        result[name] = values.astype("f4")
    return result


def weights_sha256(case):
    """Of all values in the order of shapes(): whoever has this has the weights that the fixture was made with."""
    digest = hashlib.sha256()
    for values in weights(case).values():
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()
