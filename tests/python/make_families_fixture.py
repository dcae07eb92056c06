#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/capture/fixtures/families/CASE.{json,bin}: what transformers computes in float32 for the models of tiny_models.py.

    make_families_fixture.py [CASE ...]      in the environment of requirements-reference.txt; prints a table of checks

The file format is that of fixture_file.py. The header of each file holds
    weights_sha256  of the case's weights; a test that finds others must not compare
    ids             the prompt's token ids
    tokens          the tokens whose q, k and v are stored
    layers          {layer: {"q": array f32 [heads, tokens, dim], "k": f32 [kv_heads, tokens, dim], "v": f32 [kv_heads, tokens, dim]}},
                    q and k after RoPE in rotate-half order and before any rounding to a cache
    next_logprobs   array f32 [ids - 1]: natural log-probability of ids[i + 1] after ids[0 .. i]
    logits          {"positions", "array": f32 [positions, vocab]}
Two checks run on the way. The same weights from the GGUF file in llama.cpp (float32 cache, no flash attention) must give the same
logits, so that the files mean to others what they mean to us. And every figure of a case must be one that shows mistakes: see `spread`.
"""
import importlib
import pathlib
import sys
import tempfile

import llama_cpp
import numpy
import torch
import transformers

import tiny_models
import write_tiny_models
from fixture_file import FixtureFile

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "capture/fixtures/families"
STORED_TOKENS = 20
PEER_TOLERANCE = 1e-4         # of the largest logit; llama.cpp's own rounding stays below
PEER_TOLERANCE_GELU = 1e-3    # where it takes GELU from a table of float16


def as_transformers_names(checkpoint, case):
    """Experts' matrices stacked and gate joined with up, as transformers 5 holds them; everything else as it is."""
    state = {}
    experts = case.config.get("num_experts", case.config.get("num_local_experts"))
    for name, values in checkpoint.items():
        if ".experts." not in name:
            state[name.replace("block_sparse_moe", "mlp")] = values
    if experts:
        gate, up, down, block = ("w1", "w3", "w2", "block_sparse_moe") if case.architecture == "llama" else ("gate_proj", "up_proj", "down_proj", "mlp")
        for layer in range(case.config["num_hidden_layers"]):
            def stack(part):
                return numpy.stack([checkpoint[f"model.layers.{layer}.{block}.experts.{expert}.{part}.weight"] for expert in range(experts)])
            state[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = numpy.concatenate([stack(gate), stack(up)], axis=1)
            state[f"model.layers.{layer}.mlp.experts.down_proj"] = stack(down)
    return {name: torch.from_numpy(values) for name, values in state.items()}


def load(case):
    config = getattr(transformers, case.config_class)(**case.config)
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, case.model_class)(config).eval()
    missing, unexpected = model.load_state_dict(as_transformers_names(tiny_models.weights(case), case), strict=False)
    model.tie_weights()
    if unexpected or [name for name in missing if name != "lm_head.weight"] or bool(missing) != config.tie_word_embeddings:
        raise SystemExit(f"{case.name}: missing {missing}, unexpected {unexpected}")
    return model


class Recorder:
    """Stands in for a model file's eager attention; keeps what each layer passed to it."""

    def __init__(self, model):
        self.module = importlib.import_module(type(model).__module__)
        self.original = self.module.eager_attention_forward
        self.layers = {}

    def __call__(self, module, query, key, value, *rest, **named):
        self.layers[module.layer_idx] = {"q": query[0].numpy(), "k": key[0].numpy(), "v": value[0].numpy(), "scale": named.get("scaling", module.scaling)}
        output, weights = self.original(module, query, key, value, *rest, **named)
        self.layers[module.layer_idx]["weights"] = weights[0].numpy()
        return output, weights

    def __enter__(self):
        self.module.eager_attention_forward = self
        return self

    def __exit__(self, *error):
        self.module.eager_attention_forward = self.original


def logits_of_llama_cpp(path, ids):
    f32, context = 0, -(-len(ids) // 256) * 256  # llama.cpp rounds up to this anyway
    model = llama_cpp.Llama(str(path), n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True, type_k=f32, type_v=f32, flash_attn=False,
                            n_gpu_layers=0, verbose=False, n_threads=2)
    model.eval(ids)
    return numpy.array(model.scores[: len(ids)], "f4")


def spread(recorder, logits):
    """Smallest over the layers of the mean entropy of attention over its largest possible, the share of the heaviest weight, and the logits' deviation."""
    entropies, heaviest = [], []
    for layer in recorder.layers.values():
        weights = layer["weights"][:, 8:].astype("f8")
        entropy = -(weights * numpy.log(weights + 1e-30)).sum(axis=-1)
        entropies.append((entropy / numpy.log((weights > 0).sum(axis=-1))).mean())
        heaviest.append(weights.max(axis=-1).mean())
    return f"entropy {min(entropies):.2f}-{max(entropies):.2f}, heaviest weight {min(heaviest):.2f}-{max(heaviest):.2f}, logits' deviation {logits.std(axis=-1).mean():.1f}"


def make(case, folder):
    ids = tiny_models.prompt_ids(case.prompt)
    model = load(case)
    with torch.no_grad(), Recorder(model) as recorder:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    rounded = as_double(case, ids)
    noise = abs(logits - rounded).max() / abs(rounded).max()
    tokens = numpy.unique(numpy.linspace(0, len(ids) - 1, STORED_TOKENS).astype(int))
    fixture = FixtureFile(format="kvscope.fixture.families", case=case.name, made_by=f"transformers {transformers.__version__}, torch {torch.__version__}, eager attention, float32", 
                          weights_sha256=tiny_models.weights_sha256(case), ids=ids, tokens=tokens.tolist())
    fixture.header["layers"] = {str(layer): {part: fixture.add(f"{part}_{layer}", recorder.layers[layer][part][:, tokens], "f32") for part in "qkv"} for layer in case.layers}
    logprobs = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
    fixture.header["next_logprobs"] = fixture.add("next_logprobs", logprobs[numpy.arange(len(ids) - 1), ids[1:]], "f32")
    positions = [1, len(ids) // 2, len(ids) - 1]
    fixture.header["logits"] = {"positions": positions, "array": fixture.add("logits", logits[positions], "f32")}
    fixture.write(folder / case.name)

    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "model.gguf"
        write_tiny_models.write(case, path)
        peer = logits_of_llama_cpp(path, ids)
    difference = abs(peer - logits).max() / abs(logits).max()
    excuse = f" ({case.peer_differs})" if case.peer_differs else ""
    print(f"{case.name}: {spread(recorder, logits)}; float32 against float64 {noise:.1e}; llama.cpp differs by {difference:.1e}{excuse}", flush=True)
    if case.peer_differs == "" and difference > (PEER_TOLERANCE_GELU if case.is_gemma else PEER_TOLERANCE):
        print(f"{case.name}: llama.cpp computes something else")
        return False
    return True


def as_double(case, ids):
    """The logits with everything in float64 but the angles of RoPE, which transformers forms in float32 whatever the model's type."""
    with torch.no_grad():
        return load(case).double()(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def main(*names):
    torch.set_num_threads(2)
    cases = [case for case in tiny_models.CASES if not names or case.name in names]
    if not all([make(case, FIXTURES) for case in cases]):
        raise SystemExit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
