# SPDX-License-Identifier: Apache-2.0
"""What every peer program shares: the GGUF model as a transformers float32 model, its tokenizer, the prompts, the JSON line.

The weights are read with the `gguf` package and dequantised exactly (d * q + m per block, in float32), not through
transformers' own GGUF loader: that loader's tokenizer is wrong for this model (it prepends id 1, misses the digit split).
Llama-family GGUFs store the rows of the q and k projections in interleaved pairing; transformers wants rotate-half order.
"""
import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import gguf
import numpy
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
INSTRUCTION = "Read the text and answer the question at the end."
QUESTION = "What is the secret number for the red door?"


def arguments(description, lengths=None):
    """The options all peers share; returns the parser so that a program can add its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text", help="prose of the prompts; default: kjv.txt, made by traces/make_texts")
    if lengths:
        parser.add_argument("--lengths", type=int, nargs="+", default=lengths, help="prompt tokens")
    return parser


def print_figure(**figure):
    """One figure, one JSON line on stdout; the peak is that of the whole process so far."""
    figure["process_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({key: round(value, 6) if isinstance(value, float) else value for key, value in figure.items()}), flush=True)


class Seconds:
    """`with Seconds() as seconds: ...`, then seconds.value."""

    def __enter__(self):
        self.begin = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.value = time.perf_counter() - self.begin


def prose(path=None):
    """The text of the prompts, paragraphs joined by single blanks."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, REPOSITORY / "traces" / "make_texts", folder], check=False)  # kjv.txt is enough
            return prose(pathlib.Path(folder) / "kjv.txt")
    return " ".join(pathlib.Path(path).read_text(encoding="utf-8").split())


def fields_of(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def load_tokenizer(model_path):
    """Byte-level BPE of the GGUF: digits split one by one, then GPT-2's pattern. No token is added in front."""
    fields = fields_of(gguf.GGUFReader(model_path))
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit(f"{model_path}: expected pre-tokenizer smollm, found {fields['tokenizer.ggml.pre']}")
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def chat_text(user):
    """The model's chat template for one user turn, ready for the answer."""
    return ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")


def needle_prompt(tokenizer, text, num_tokens, depth=0.5, number="48213"):
    """Ids of the needle task of at most num_tokens, cut at a sentence end; (ids, number)."""
    sentences = [sentence.strip() + "." for sentence in text[:num_tokens * 8].split(".") if sentence.strip()]
    needle = f"The secret number for the red door is {number}."

    def ids_with(count):
        place = round(count * depth)
        body = " ".join(sentences[:place] + [needle] + sentences[place:count])
        return ids_of(tokenizer, chat_text(f"{INSTRUCTION}\n\n{body}\n\n{QUESTION}"))

    low, high = 0, len(sentences)
    while low < high:  # the largest number of sentences that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(ids_with(middle)) <= num_tokens else (low, middle - 1)
    return ids_with(low), number


def config_from_gguf(fields):
    heads, hidden = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=fields["llama.feed_forward_length"], num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads, num_key_value_heads=fields["llama.attention.head_count_kv"], head_dim=hidden // heads,
        vocab_size=fields["llama.vocab_size"], max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"], tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"], eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=None, attention_bias=False, hidden_act="silu")


def rotate_half_order(weight, heads):
    """Rows of one projection from the GGUF's interleaved pairing (0, d/2, 1, d/2 + 1, ...) to rotate-half order."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def load_model(model_path, threads=2, attention="sdpa"):
    """LlamaForCausalLM in float32 with the GGUF's weights. attention: sdpa or eager."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("highest")
    reader = gguf.GGUFReader(model_path)
    config = config_from_gguf(fields_of(reader))
    config._attn_implementation = attention
    state = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        parts = tensor.name.removesuffix(".weight").split(".")  # blk.7.attn_q or token_embd
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(parts[-1])
        if heads:
            weight = rotate_half_order(weight, heads)
        prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        state[prefix + NAMES[parts[-1]] + ".weight"] = torch.from_numpy(numpy.ascontiguousarray(weight))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(state, strict=True)
    return model.float().eval()
