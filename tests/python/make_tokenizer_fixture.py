# SPDX-License-Identifier: Apache-2.0
"""Writes token ids by llama.cpp, the reference for capture's tokenizers, into tests/capture/fixtures.

    make_tokenizer_fixture.py --model SmolLM2-135M-Instruct.Q4_1.gguf       tokenizer.txt: every id of the default model
    make_tokenizer_fixture.py --vocabularies FOLDER                         vocabulary_texts.txt, vocabularies.txt and
                              (what tests/fetch_vocabularies prints)        sentence_piece.gguf: other families

Format, UTF-8, one case a line, `#` begins a comment line:

    MODE <TAB> TEXT <TAB> ID ID ID ...

MODE   plain: the text is only text, also where it spells a special token (llama.cpp's parse_special = false).
       special: spelled special tokens become their single id (parse_special = true).
TEXT   UTF-8 with four escapes and no others: \\\\ backslash, \\n, \\t, and \\xHH (two lower-case hex digits) for any other control byte.
ID     decimal ids; none for the empty text. No token is added in front or behind (add_bos_token is false in the GGUF).

vocabulary_texts.txt has the first two columns alone: further texts for other vocabularies. vocabularies.txt has, for each,

    vocabulary NAME FILE KEY=VALUE ...   the file in FOLDER (or the fixture), with these keys of its metadata changed
    bos ADDS ID                          whether a text begins with token ID
    ends ID ...                          the tokens that end an answer
    kjv COUNT:HASH                       ids of the first 200,000 bytes of the King James Bible as one text
    ids COUNT:HASH ...                   of every text of tokenizer.txt, then of vocabulary_texts.txt; - where the vocabulary
                                         has no token for some byte of it (llama.cpp drops the byte, capture refuses)
    same FILE KEY=VALUE ...              these changes give the same ids as the vocabulary above

HASH is FNV-1a over the ids as 32-bit little-endian numbers, 32 bits, 8 hex digits. A KEY is `pre` (tokenizer.ggml.pre), `model`,
`add_space_prefix` or `scores=falling` (the score of token i becomes -i: the file has none).

The text is valid UTF-8: llama.cpp replaces invalid bytes before it splits, so it is no reference for them.
Prose comes from traces/make_texts (KJV, Persuasion), source code from this repository as it is when the script runs.
"""
import argparse
import collections
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

import llama_cpp

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ["core/half.cpp", "core/error.h", "CMakeLists.txt", "tests/run", "traces/make_texts", "tests/bench/peers/common.py"]

ODD = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", "\r\n\r\n", " \n", "\n ", " \n ", "  \n\n  ", "a ", "a  ", "a   ", " a", "  a", "   a", "a\n", "a \n b", "a  b   c    d     e",
    " " * 15, " " * 16, " " * 17, " " * 64, " " * 200 + "x", "\n" * 40, "\t" * 9 + "x", "x" + " " * 33 + "\n" + " " * 7 + "y",
    "0", "7", "10", "100", "48213", " 48213", "3.14159", "1,000,000", "2026-11-23T14:36:00Z", "0x7fff", "1e-5", "v1.2.3", "12 34 56", "a1b2c3", "1st 2nd 3rd", "٣٤٥", "½ ² ³ Ⅷ ①", "१२३", "１２３", "90210-1234", "00000000",
    "I'm you're he's we've they'll I'd can't", "I'M YOU'RE HE'S WE'VE", "don’t it’s ‘quoted’ “double”", "'s", "''s", "'sst", " 'tis", "o'clock", "rock'n'roll", "'re're've", "x'll'd",
    "!", "!!", "!!!", "?!?!", "...", "…", "—", "a—b", "--", "---", "-----", "==", "!=", "<=>", "->", "::", "/*", "*/", "//", "http://example.com/a?b=c&d=e#f", "user@example.com", "$100", "€50", "100%", "#hashtag", "@name", "C++", "C#", "\\", "\\n", "\\\\",
    "naïve café déjà vu", "Zürich Straße ÄÖÜ äöü ß", "e\u0301", "n\u0303", "ÅÅA\u030a", "Ελληνικά", "Русский язык", "Ёлка", "עברית", "العربية", "हिन्दी", "ไทยภาษา", "한국어", "日本語の文章です。", "中文字符，没有空格", "漢字 and English混ざる", "ﬁ ﬂ ﬃ", "Ａ Ｂ Ｃ", "ǅ ǆ", "İstanbul ı",
    "😀", "😀😀", " 😀", "👍🏽", "👨\u200d👩\u200d👧\u200d👦", "🇩🇪🇫🇷", "❤️", "a😀b", "☃", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𠜎", "\u200b", "\u00a0", "a\u00a0b", "\u3000", "\u2028", "\u2009x", "\ufeff", "\u00ad", "\u0000", "\u0001\u0002", "\u007f", "\u0085", "\x0b\x0c", "\x1b[0m",
    "<", "<|", "<|im", "<|im_start", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", " <|im_end|> ", "<|im_start|><|im_end|>", "<|IM_START|>", "<s>", "</s>", "[INST]", "<unk>",
    "Supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababab", "THE QUICK BROWN FOX", "tHe QuIcK bRoWn FoX", "snake_case_name", "camelCaseName", "SCREAMING_SNAKE", "x=1;y=2;z=x+y;", "{\"a\": [1, 2.5, null, true]}",
]
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_start|>", "<|im_start|> <|im_end|>", " <|im_end|> ", "a<|im_end|>b", "a <|im_end|> b", "\n<|im_end|>\n", "<|im_end|>\n<|im_start|>", "12<|im_end|>34", "<|im_start|user|>", "<|im_start", "|im_end|>", "<<|im_end|>>", "<|IM_END|>", "",
    "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>",
    "<repo_name>a/b<file_sep>x.py\nprint(1)\n<|endoftext|>", "😀<|im_end|>😀", "漢<|im_start|>字", "  <|im_start|>  user  \n\n  text  <|im_end|>  ", "no special token at all, 100 %",
    "<|im_start|>user\nWhat is the secret number for the red door?<|im_end|>\n<|im_start|>assistant\nThe secret number for the red door is 48213.<|im_end|>\n",
]
ALPHABETS = ["abcdefghij", "KLMNOPQRST", "0123456789", "    ", " \n\t\r", ".,;:!?'\"()[]{}<>|/\\@#$%^&*-+=_~`", "'s't're've'm'll'd", "àéîõüçñßøåæœ", "αβγδεζηθ", "абвгдежз", "漢字日本語中文", "ひらがなカタカナ", "한국어글자", "אבגד", "ابتث", "कखगघ", "กขฃค",
             "😀🚀🎉❤👍", "²³½¼Ⅳ٣४", "\u00a0\u2003\u3000\u2028", "\u0301\u0303\u200d\ufe0f", "€£¥©®™°§¶"]


def escaped(text):
    named = {"\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    return "".join(named.get(c) or (f"\\x{ord(c):02x}" if ord(c) < 32 or ord(c) == 127 else c) for c in text)


def plain(text):
    """Undoes escaped()."""
    return re.sub(r"\\(x..|.)", lambda match: {"n": "\n", "t": "\t", "\\": "\\"}.get(match[1]) or chr(int(match[1][1:], 16)), text)


def pieces(text, size=2000):
    """The text in cases of some `size` characters, cut at arbitrary places."""
    return [text[begin:begin + size] for begin in range(0, len(text), size)]


def random_texts(count=400, seed=7):
    generator = random.Random(seed)
    for _ in range(count):
        runs = ("".join(generator.choices(generator.choice(ALPHABETS), k=generator.randint(1, 5))) for _ in range(generator.randint(1, 12)))
        yield "".join(runs)


def cases():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, REPOSITORY / "traces" / "make_texts", folder], check=True)
        kjv = (pathlib.Path(folder) / "kjv.txt").read_text(encoding="utf-8")
        austen = (pathlib.Path(folder) / "austen.txt").read_text(encoding="utf-8")
    parts = [("KJV, six places", [piece for place in range(6) for piece in pieces(kjv[place * 650_000:][:20_000])]),
             ("Persuasion", pieces(austen[:80_000])),
             ("source code", [piece for source in SOURCES for piece in pieces((REPOSITORY / source).read_text(encoding="utf-8")[:8000])]),
             ("odd cases", ODD), ("random mixtures, seed 7", list(random_texts()))]
    for title, texts in parts:
        yield title, "plain", texts
    yield "special tokens", "special", SPECIAL


FAMILY_SPECIALS = [
    "<s>", "</s>", "<unk>", "<s>[INST] Hi [/INST] Yes </s><s>[INST] 5 [/INST]", " [INST] <<SYS>>\nBe brief\n<</SYS>>\n\nHi [/INST]", "[SYSTEM_PROMPT]a[/SYSTEM_PROMPT]",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|> <|eot_id|>\n", "<|reserved_special_token_1|><|reserved_special_token_10|>",
    "<|system|>\nBe brief<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n", "<|user|> \t\n x<|end|>  <|end|>", "<|user|>\n\n\n", "<|assistant|>\u00a0x", "<|endoftext|>  x", "<s>  x", "</s>\n x", "<unk> x",
    "<|user|>   <|end|>   <|assistant|>", "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<eos> <eos>\n\n\n<eos>", "<pad><mask>", "<unused1>", "<unused10><unused1>", "[PAD151646]", "[PAD32011] a",
    "<tool_response|>", "<|tool_call>x<tool_call|>", "<0x0A>", "<0x41>", "a<0x0A>b", "▁", "▁▁", "a▁b", "▁a", " ▁ ", "▁<PRE>",
]
SPACED = ["\n\n\n\n\n\na", "a\n\n\nb", "   \n\n   ", "a  b   c    d", "\t\tx\t", " a", "a ", "\na", "  a\n  b\n    c\n", "x" * 300, "é" * 100, "ab" * 150, " " * 100, "日" * 60, "don'T WE'LL I'M he'S", "ABCdefGHI camelCaseAndPascalCase XMLHttpRequest", "a/b//c/\n/\n", "!!!\r\n\r\nx", "12345678901234567890 1 12 123 1234 １２３４ ٣٤٥٦"]


def wide_texts(count=150, seed=11):
    """Characters of every plane, as numbers below the limits; assigned ones or not."""
    generator = random.Random(seed)
    limits = [0x80, 0x250, 0x800, 0x3000, 0xD800, 0x20000, 0x110000]
    for _ in range(count):
        codes = [generator.randrange(generator.choice(limits)) for _ in range(generator.randint(1, 24))]
        yield "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


# In FOLDER, changes, and other changes that give the same ids.
LLAMA3 = [{"pre": name} for name in ("llama3", "llama-v3", "falcon3", "pixtral")]
VOCABULARIES = [
    ("llama-bpe", "llama-bpe.gguf", {}, LLAMA3), ("llama-bpe words by merges", "llama-bpe.gguf", {"pre": "dbrx"}, [{"pre": "smaug-bpe"}]),
    ("qwen2", "qwen2.gguf", {}, [{"pre": "deepseek-r1-qwen"}, {"pre": "megrez"}]), ("qwen35", "qwen35.gguf", {}, []),
    ("gpt-2", "gpt-2.gguf", {}, []), ("mpt", "mpt.gguf", {}, []), ("starcoder", "starcoder.gguf", {}, []), ("refact", "refact.gguf", {}, []), ("command-r", "command-r.gguf", {}, []),
    ("tekken words in llama-bpe", "llama-bpe.gguf", {"pre": "tekken"}, []), ("gpt-4o words in llama-bpe", "llama-bpe.gguf", {"pre": "gpt-4o"}, []),
    ("llama-spm", "llama-spm.gguf", {}, []), ("llama-spm without dummy space", "llama-spm.gguf", {"add_space_prefix": "false"}, []),
    ("phi-3", "phi-3.gguf", {}, []), ("baichuan", "baichuan.gguf", {}, []), ("gemma tokens, falling scores", "gemma-4.gguf", {"model": "llama", "scores": "falling"}, []),
    ("made here", "sentence_piece.gguf", {}, []), ("made here with dummy space", "sentence_piece.gguf", {"add_space_prefix": "true"}, []),
]


def changed(data, changes):
    """The bytes of a GGUF file without tensors with some metadata changed; a new key goes in front."""
    for name, value in changes.items():
        key = ("tokenizer.ggml." + name).encode()
        stored = struct.pack("<Q", len(key)) + key
        at = data.find(stored)
        begin = at + len(stored) + 4
        if name == "scores":
            count, = struct.unpack_from("<Q", data, begin + 4)
            data = data[:begin + 12] + struct.pack(f"<{count}f", *(-float(i) for i in range(count))) + data[begin + 12 + 4 * count:]
        elif value in ("true", "false"):
            byte = bytes([value == "true"])
            if at >= 0:
                data = data[:begin] + byte + data[begin + 1:]
            else:
                keys, = struct.unpack_from("<Q", data, 16)
                data = data[:16] + struct.pack("<Q", keys + 1) + stored + struct.pack("<I", 7) + byte + data[24:]
        else:
            length, = struct.unpack_from("<Q", data, begin)
            data = data[:begin] + struct.pack("<Q", len(value)) + value.encode() + data[begin + 8 + length:]
    return data


def text_and_hash(ids):
    value = 0x811C9DC5
    for byte in struct.pack(f"<{len(ids)}I", *ids):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{len(ids)}:{value:08x}"


def lacking_bytes(tokens):
    """Bytes that a byte-level vocabulary has no token for."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 255 and b != 173]
    others = [b for b in range(256) if b not in printable]
    characters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return {byte for byte, character in characters.items() if character not in tokens}


def make_sentence_piece(path, kjv):
    """A small vocabulary as Gemma's: no dummy space, runs of spaces and line breaks as user-defined tokens, equal scores."""
    import gguf
    words = collections.Counter(kjv[:60_000].replace("\n", " ").split(" "))
    symbols = {("▁", *word): count for word, count in words.items() if word}
    merged = []
    while len(merged) < 500:
        pairs = collections.Counter()
        for word, count in symbols.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        (left, right), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        merged.append(left + right)
        joined = {}
        for word, count in symbols.items():
            out = []
            for symbol in word:
                if out and out[-1] == left and symbol == right:
                    out[-1] = left + right
                else:
                    out.append(symbol)
            joined[tuple(out)] = joined.get(tuple(out), 0) + count
        symbols = joined
    tokens = [("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2), ("<mask>", 4), ("<unused0>", 5), ("<unused1>", 3), ("<unused10>", 3), ("<start_of_turn>", 3), ("<end_of_turn>", 1)]
    tokens += [("\n" * n, 4) for n in range(2, 8)] + [(" " * n, 4) for n in range(2, 8)] + [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    tokens += [(piece, 1) for piece in dict.fromkeys(merged)]
    tokens += [(c, 1) for c in dict.fromkeys("▁\n" + "".join(map(chr, range(33, 127))) + "éäöüßñαβγабв日本語中文한국어😀") if c not in dict(tokens)]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("made here")
    for add, value in ((writer.add_context_length, 128), (writer.add_embedding_length, 32), (writer.add_block_count, 1), (writer.add_feed_forward_length, 32), (writer.add_head_count, 1), (writer.add_layer_norm_rms_eps, 1e-5)):
        add(value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(max(0, i - 278) // 3) for i in range(len(tokens))])  # three tokens each
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_vocabularies(folder, fixtures):
    import gguf
    with tempfile.TemporaryDirectory() as texts_folder:
        subprocess.run([sys.executable, REPOSITORY / "traces" / "make_texts", texts_folder], check=False)
        kjv = (pathlib.Path(texts_folder) / "kjv.txt").read_text(encoding="ascii")
    make_sentence_piece(fixtures / "sentence_piece.gguf", kjv)
    more = [("special", text) for text in FAMILY_SPECIALS] + [("plain", text) for text in FAMILY_SPECIALS + SPACED + list(wide_texts())]
    (fixtures / "vocabulary_texts.txt").write_text("# Made by tests/python/make_tokenizer_fixture.py, which documents the format.\n" + "".join(f"{mode}\t{escaped(text)}\n" for mode, text in more), encoding="utf-8", newline="\n")
    texts = []
    for line in (fixtures / "tokenizer.txt").read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            texts.append(tuple(line.split("\t")[:2]))
    texts = [(mode, plain(text)) for mode, text in texts] + more
    lines = [f"# Made by tests/python/make_tokenizer_fixture.py, which documents the format; llama-cpp-python {llama_cpp.__version__}."]
    for name, file, changes, same in VOCABULARIES:
        path = fixtures / file if file == "sentence_piece.gguf" else pathlib.Path(folder) / file
        reader = gguf.GGUFReader(path)
        tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        is_bytes = reader.fields["tokenizer.ggml.model"].contents() == "gpt2"
        lacking = lacking_bytes(set(tokens)) if is_bytes else set()
        ids_of = {}
        for change in [changes] + same:
            with tempfile.NamedTemporaryFile(suffix=".gguf") as copy:
                copy.write(changed(path.read_bytes(), change))
                copy.flush()
                llama = llama_cpp.Llama(copy.name, vocab_only=True, verbose=False)
                found = [None if lacking & set(text.encode()) else llama.tokenize(text.encode(), add_bos=False, special=mode == "special") for mode, text in texts]
                if change is not changes:
                    assert found == reference, (name, change)
                    lines.append("same " + " ".join([file] + [f"{key}={value}" for key, value in change.items()]))
                    continue
                reference = found
                vocabulary = llama._model.vocab
                ends = [i for i in range(len(tokens)) if llama_cpp.llama_vocab_is_eog(vocabulary, i)]
                adds = bool(llama_cpp.llama_vocab_get_add_bos(vocabulary))
                lines += ["\t".join(["vocabulary", name, file] + [f"{key}={value}" for key, value in change.items()]),
                          f"bos {int(adds)} {llama_cpp.llama_vocab_bos(vocabulary) if adds else -1}", "ends " + " ".join(map(str, ends)),
                          "kjv " + text_and_hash(llama.tokenize(kjv[:200_000].encode(), add_bos=False, special=False)),
                          "ids " + " ".join("-" if ids is None else text_and_hash(ids) for ids in found)]
        print(name, sum(len(ids) for ids in reference if ids), "tokens, without bytes:", sum(ids is None for ids in reference), "ends", len(ends), flush=True)
    (fixtures / "vocabularies.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main():
    parser = argparse.ArgumentParser(description="token ids by llama.cpp as a text fixture")
    parser.add_argument("--model")
    parser.add_argument("--vocabularies", metavar="FOLDER")
    parser.add_argument("-o", "--output", default=REPOSITORY / "tests/capture/fixtures/tokenizer.txt")
    options = parser.parse_args()
    if options.vocabularies:
        write_vocabularies(options.vocabularies, pathlib.Path(options.output).parent)
    if not options.model:
        return
    llama = llama_cpp.Llama(options.model, vocab_only=True, verbose=False)
    total, lines = 0, [f"# Made by tests/python/make_tokenizer_fixture.py, which documents the format; llama-cpp-python {llama_cpp.__version__}."]
    for title, mode, texts in cases():
        lines.append(f"# {title}")
        for text in texts:
            ids = llama.tokenize(text.encode("utf-8"), add_bos=False, special=mode == "special")
            total += len(ids)
            lines.append(f"{mode}\t{escaped(text)}\t{' '.join(map(str, ids))}")
    output = pathlib.Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{output}: {len(lines)} lines, {total} tokens, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
