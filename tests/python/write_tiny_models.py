#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the models of tiny_models.py to FOLDER/CASE.gguf, and FOLDER/deepseek2.gguf, a header that must be refused by name.

    write_tiny_models.py FOLDER [CASE ...]

Key names, tensor names and what is stored in them follow llama.cpp's convert_hf_to_gguf.py; the checked facts are in the functions below.
Needs the `gguf` package of PyPI (tests/python/gguf_venv makes an environment with it). All tensors are float32.
"""
import math
import pathlib
import sys

import gguf
import numpy

import tiny_models


def for_interleaved_rope(matrix, heads):
    """llama.cpp turns neighbouring pairs (0, 1), (2, 3) for llama; the checkpoint's pairs are (0, D/2), (1, D/2 + 1) ... Rows of q and k are moved accordingly."""
    return matrix.reshape(heads, 2, -1, matrix.shape[-1]).swapaxes(1, 2).reshape(matrix.shape)


def llama3_factors(rope, head_dim):
    """What each frequency is divided by: 1 for short waves, `factor` for waves longer than the old context, in between smooth."""
    factors = []
    for i in range(head_dim // 2):
        waves = rope["original_max_position_embeddings"] / (2 * math.pi * rope["rope_theta"] ** (2 * i / head_dim))  # in the old context
        share = (waves - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        share = min(max(share, 0.0), 1.0)
        factors.append(1 / ((1 - share) / rope["factor"] + share))
    return numpy.array(factors, "f4")


def add_tokenizer(writer, size=tiny_models.VOCAB):
    texts, types, merges = tiny_models.vocabulary(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}")


def add_rope(writer, case):
    """Returns the tensors that go with it."""
    c = case.config
    rope = c["rope_parameters"].get("full_attention", c["rope_parameters"])
    if case.architecture in ("gemma", "gemma2"):
        return {}  # the base is left to the default, 10000
    writer.add_rope_freq_base(rope["rope_theta"])
    if "sliding_attention" in c["rope_parameters"]:
        writer.add_rope_freq_base_swa(c["rope_parameters"]["sliding_attention"]["rope_theta"])
    kind = rope["rope_type"]
    if kind == "linear" or kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if case.architecture == "phi3":
        # Neither a type nor a factor: only the tensors and the factor on q and k.
        original = c["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        if kind == "longrope":
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(c["max_position_embeddings"] / original) / math.log(original)))
            return {"rope_factors_long.weight": numpy.array(rope["long_factor"], "f4"), "rope_factors_short.weight": numpy.array(rope["short_factor"], "f4")}
    return {"rope_freqs.weight": llama3_factors(rope, case.head_dim)} if kind == "llama3" else {}


def add_keys(writer, case):
    c = case.config
    writer.add_name(f"tiny {case.name.replace('phi3', 'phi 3')}")  # at "phi3" in a name llama.cpp expects tokens of Phi-3's vocabulary
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if "head_dim" in c:
        writer.add_key_length(c["head_dim"])
        writer.add_value_length(c["head_dim"])
    experts = c.get("num_experts", c.get("num_local_experts"))
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(c["num_experts_per_tok"])
    if "moe_intermediate_size" in c:
        writer.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if case.architecture in ("llama", "phi3"):
        writer.add_rope_dimension_count(case.head_dim)
    if case.architecture == "llama":
        writer.add_vocab_size(c["vocab_size"])
    if case.architecture == "gemma2":
        writer.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(c["final_logit_softcapping"])
    # llama.cpp's converter writes no window for mistral; kvscope honours the key in any architecture. 0 is phi3's word for none.
    if c.get("sliding_window") or case.architecture == "phi3":
        writer.add_sliding_window(c["sliding_window"] or 0)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def stacked_experts(checkpoint, case):
    """The checkpoint with the experts' matrices of a layer stacked to one: [experts, outputs, inputs]."""
    result = {}
    count = case.config.get("num_experts", case.config.get("num_local_experts"))
    for name, values in checkpoint.items():
        if ".experts." not in name:
            result[name] = values
        elif ".experts.0." in name:
            stack = numpy.stack([checkpoint[name.replace(".experts.0.", f".experts.{expert}.")] for expert in range(count)])
            # The converter renames a stack of Mixtral's to what the older checkpoints of that family called it.
            merged = name.replace(".experts.0.", ".experts.")
            result[merged.removeprefix("model.").replace("block_sparse_moe", "feed_forward") if "block_sparse_moe" in name else merged] = stack
    return result


def tensors(case):
    """(GGUF name, values) of every weight."""
    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == case.architecture)
    names = gguf.get_tensor_name_map(architecture, case.config["num_hidden_layers"])
    for name, values in stacked_experts(tiny_models.weights(case), case).items():
        if case.architecture == "llama" and (name.endswith("q_proj.weight") or name.endswith("k_proj.weight")):
            values = for_interleaved_rope(values, values.shape[0] // case.head_dim)
        if case.is_gemma and name.endswith("norm.weight"):
            values = values + numpy.float32(1)
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ValueError(f"{case.name}: {name}: the gguf package has no name for this tensor")
        yield known, numpy.ascontiguousarray(values)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(case, path):
    writer = gguf.GGUFWriter(path, case.architecture)
    add_keys(writer, case)
    extra = add_rope(writer, case)
    add_tokenizer(writer)
    for name, values in (*tensors(case), *extra.items()):
        writer.add_tensor(name, values)
    finish(writer)


def write_deepseek2(path):
    """Keys of a DeepSeek-V2 file, whose attention keeps one latent vector per token (MLA), and one tensor."""
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_name("header of a deepseek2")
    writer.add_block_count(27)
    writer.add_context_length(4096)
    writer.add_embedding_length(2048)
    writer.add_feed_forward_length(10944)
    writer.add_head_count(16)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_kv_lora_rank(512)
    writer.add_key_length(576)
    writer.add_value_length(512)
    writer.add_key_length_mla(192)
    writer.add_value_length_mla(128)
    add_tokenizer(writer)
    writer.add_tensor("output_norm.weight", numpy.ones(2048, "f4"))
    finish(writer)


def main(folder, *names):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for case in tiny_models.CASES:
        if not names or case.name in names:
            write(case, folder / f"{case.name}.gguf")
    if not names:
        write_deepseek2(folder / "deepseek2.gguf")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("write_tiny_models.py: expected FOLDER [CASE ...]")
    main(*sys.argv[1:])
