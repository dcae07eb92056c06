# SPDX-License-Identifier: Apache-2.0
"""What recording attention costs with transformers: eager prefill with output_attentions, then every weight written as f16 with h5py (medians).

Prefill and writing are timed apart; writing ends with fsync. The weights of a 2k prompt take 5.9 GB in memory; 4k does not fit in 24 GB.
"""
import os
import pathlib
import statistics
import tempfile

import h5py
import torch

import common


def write_weights(attentions, path):
    with open(path, "wb") as raw:
        with h5py.File(raw, "w") as file:
            for layer, weights in enumerate(attentions):
                file.create_dataset(f"layer/{layer:02d}", data=weights[0].half().numpy())  # torch halves 7 times faster than numpy's astype
        raw.flush()
        os.fsync(raw.fileno())


def main():
    parser = common.arguments(__doc__, lengths=[2048])
    parser.add_argument("--folder", help="where the file is written and removed again; default: the system's temporary folder")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    text, tokenizer = common.prose(options.text), common.load_tokenizer(options.model)
    model = common.load_model(options.model, options.threads, "eager")
    ids = torch.tensor([common.ids_of(tokenizer, text[:max(options.lengths) * 8])])
    model(ids[:, :512], output_attentions=True)  # warm-up
    for length in options.lengths:
        prefill_secs, writing_secs = [], []
        for _ in range(options.repeats):
            with common.Seconds() as seconds:
                out = model(ids[:, :length], output_attentions=True, use_cache=True, logits_to_keep=1)
            prefill_secs.append(seconds.value)
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                path = pathlib.Path(folder) / "attention.h5"
                with common.Seconds() as seconds:
                    write_weights(out.attentions, path)
                writing_secs.append(seconds.value)
                size = path.stat().st_size
            del out
        prefill, writing = statistics.median(prefill_secs), statistics.median(writing_secs)
        common.print_figure(peer="transformers eager + output_attentions + h5py f16", tokens=length, threads=options.threads, repeats=options.repeats,
                            prefill_secs=prefill, writing_secs=writing, total_secs=prefill + writing, file_bytes=size)


if __name__ == "__main__":
    main()
