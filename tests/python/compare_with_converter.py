#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Converts each case's checkpoint with llama.cpp's own convert_hf_to_gguf.py and compares keys and tensors with write_tiny_models.py's file.

    compare_with_converter.py FOLDER_OF_LLAMA_CPP [CASE ...]      vendor/llama.cpp of the llama-cpp-python source archive

Tensors must be the same bits under the same names. Keys that differ are printed, but for tokenizer.* and general.*: what a case leaves
out on purpose is in EXPECTED. Needs the environment of requirements-reference.txt; no test runs this.
"""
import logging
import pathlib
import sys
import tempfile

import numpy
import safetensors.numpy
import transformers

import tiny_models

KEYS_OF_NEW_CONFIGS = ("attention.key_length", "attention.value_length")  # transformers 5 always saves a head_dim; older checkpoints do not
TOLERANCE = 1e-6  # of llama3's factors, which the converter forms in float32
EXPECTED = {
    "mistral": {"attention.sliding_window": "kvscope's own reading of Mistral"},
}


def convert(case, folder, conversion, gguf):
    config = getattr(transformers, case.config_class)(**case.config)
    config.architectures = [case.model_class]
    config.save_pretrained(folder)
    safetensors.numpy.save_file(tiny_models.weights(case), folder / "model.safetensors", metadata={"format": "pt"})
    model_class = conversion.get_model_class(case.model_class, mmproj=False)
    model_class.set_vocab = lambda self: None
    if case.architecture == "gemma3":  # cuts the embedding to the tokenizer's vocabulary
        (folder / "tokenizer.json").write_text('{"model": {"vocab": {%s}}, "added_tokens": []}' % ", ".join(f'"{i}": {i}' for i in range(tiny_models.VOCAB)), encoding="utf-8")
    path = folder / "converted.gguf"
    model_class(folder, gguf.LlamaFileType.ALL_F32, path).write()
    return path


def contents(path, gguf):
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith(("GGUF.", "general.", "tokenizer."))}
    return keys, {tensor.name: numpy.array(tensor.data) for tensor in reader.tensors}


def compare(case, folder, write, conversion, gguf):
    """Whether tensors and keys are the same."""
    write(case, folder / "ours.gguf")
    our_keys, ours = contents(folder / "ours.gguf", gguf)
    their_keys, theirs = contents(convert(case, folder, conversion, gguf), gguf)
    problems = [f"tensor {name} only in one" for name in ours.keys() ^ theirs.keys()]
    for name in ours.keys() & theirs.keys():
        tolerance = TOLERANCE if name == "rope_freqs.weight" else 0
        if ours[name].shape != theirs[name].shape or not numpy.allclose(ours[name], theirs[name], rtol=tolerance, atol=0):
            problems.append(f"tensor {name} differs")
    for key in sorted(our_keys.keys() | their_keys.keys()):
        short = key.removeprefix(case.architecture + ".")
        if our_keys.get(key) != their_keys.get(key) and short not in EXPECTED.get(case.name, {}) and not (short in KEYS_OF_NEW_CONFIGS and key not in our_keys):
            problems.append(f"key {short}: ours {our_keys.get(key)}, converter's {their_keys.get(key)}")
    print(f"{case.name}: {len(ours)} tensors, {len(our_keys)} keys: {'; '.join(problems) or 'the same'}", flush=True)
    return not problems


def main(llama_cpp, *names):
    sys.path[:0] = [str(pathlib.Path(llama_cpp) / "gguf-py"), llama_cpp]
    import conversion
    import gguf  # the converter's, which is newer than its package; write_tiny_models takes the same
    import write_tiny_models
    logging.disable(logging.WARNING)
    same = []
    for case in tiny_models.CASES:
        if not names or case.name in names:
            with tempfile.TemporaryDirectory() as folder:
                same.append(compare(case, pathlib.Path(folder), write_tiny_models.write, conversion, gguf))
    if not all(same):
        raise SystemExit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
