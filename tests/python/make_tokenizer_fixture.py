# SPDX-License-Identifier: Apache-2.0
"""Writes tests/capture/fixtures/tokenizer.txt: token ids by llama.cpp, the reference for this model's tokenizer.

    make_tokenizer_fixture.py --model SmolLM2-135M-Instruct.Q4_1.gguf [-o tests/capture/fixtures/tokenizer.txt]

Format, UTF-8, one case a line, `#` begins a comment line:

    MODE <TAB> TEXT <TAB> ID ID ID ...

MODE   plain: the text is only text, also where it spells a special token (llama.cpp's parse_special = false).
       special: spelled special tokens become their single id (parse_special = true).
TEXT   UTF-8 with four escapes and no others: \\\\ backslash, \\n, \\t, and \\xHH (two lower-case hex digits) for any other control byte.
ID     decimal ids; none for the empty text. No token is added in front or behind (add_bos_token is false in the GGUF).

The text is valid UTF-8: llama.cpp replaces invalid bytes before it splits, so it is no reference for them.
Prose comes from traces/make_texts (KJV, Persuasion), source code from this repository as it is when the script runs.
"""
import argparse
import pathlib
import random
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


def main():
    parser = argparse.ArgumentParser(description="token ids by llama.cpp as a text fixture")
    parser.add_argument("--model", required=True)
    parser.add_argument("-o", "--output", default=REPOSITORY / "tests/capture/fixtures/tokenizer.txt")
    options = parser.parse_args()
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
