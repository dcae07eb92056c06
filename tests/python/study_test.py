# SPDX-License-Identifier: Apache-2.0
"""The quick study of ADKVC on the real model: it runs to its end, stops and goes on, and its page says what was measured."""
import csv
import pathlib
import subprocess
import tempfile
import unittest

import programs

TEXTS = [programs.CACHE / "kjv.txt", programs.CACHE / "austen.txt"]


def number(row, column):
    return float(row[column]) if row[column] else None


class Study(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = pathlib.Path(cls.folder.name)
        first = cls.study("--minutes", "0.001")  # one part, then it stops
        assert first.returncode == 0, first.stderr
        cls.parts_at_first = len(list((cls.out / "adkvc_quick_parts").glob("*.h5")))
        cls.ended = cls.study()
        with open(cls.out / "adkvc_quick.csv", newline="") as file:
            cls.rows = list(csv.DictReader(file))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def study(cls, *arguments):
        return programs.run("kvscope-replay", "study", "adkvc", "--quick", "--model", programs.MODEL, "--haystack", TEXTS[0], "--second", TEXTS[1],
                            "-o", cls.out, *arguments, timeout=1700)

    def live(self, policy, fraction, protocol="prompt", **columns):
        found = [row for row in self.rows if row["mode"] == "live" and row["policy"] == policy and row["protocol"] == protocol
                 and (fraction is None or number(row, "keep_fraction_asked") == fraction)
                 and all(row[column] == value for column, value in columns.items())]
        self.assertTrue(found, f"no live row of {policy} at {fraction}")
        return found[0]

    def test_it_ends_and_went_on_where_it_was(self):
        self.assertEqual(self.ended.returncode, 0, self.ended.stderr)
        self.assertEqual(self.parts_at_first, 1)
        self.assertGreater(len(list((self.out / "adkvc_quick_parts").glob("*.h5"))), 6)

    def test_only_the_oracle_that_needs_a_trace_is_refused(self):
        refused = {row["policy"] for row in self.rows if row["refused_reason"]}
        self.assertLessEqual(refused, {"adkvc:oracle=relevance"})

    def test_bytes_are_what_was_asked(self):
        for row in self.rows:
            asked, kept = number(row, "keep_fraction_asked"), number(row, "kept_fraction")
            if asked is None or kept is None or row["policy"] in ("full", "top_k_oracle") or "prefill_chunk" in row["policy"]:
                continue
            self.assertLessEqual(kept, asked * (1 + 1e-6), row["policy"])
        for fraction in (0.5, 0.25):
            self.assertGreater(number(self.live("adkvc", fraction, task="niah"), "kept_fraction"), fraction * 0.999)

    def test_what_must_hold_on_any_model_holds(self):
        full = number(self.live("full", None, task="niah"), "answer_nll")
        self.assertEqual(number(self.live("full", None, task="niah"), "metric_value"), 1)
        self.assertLess(number(self.live("adkvc", 0.5, task="niah"), "answer_nll"), full + 0.2)
        self.assertGreater(number(self.live("random", 0.25, task="niah"), "answer_nll"), full + 1)
        self.assertLess(number(self.live("top_k_oracle", 0.25, task="niah"), "answer_nll"), full + 0.2)

    def test_the_page_is_whole(self):
        page = (self.out / "adkvc_quick.html").read_text()
        for words in ("adkvc", "snapkv@int4", "perplexity", "cannot tell"):
            self.assertIn(words, page)
        self.assertNotIn(">nan<", page)
        self.assertGreater(len(list((self.out / "adkvc_quick_pictures").glob("*.png"))), 3)
        self.assertIn("adkvc", (self.out / "adkvc_quick.md").read_text())


if __name__ == "__main__":
    make_texts = [programs.REPOSITORY / "traces/make_texts", programs.CACHE]
    if not programs.MODEL.exists() or subprocess.run(make_texts, capture_output=True, check=False).returncode != 0:
        programs.skip("it needs the model and both texts (traces/fetch_model, traces/make_texts)")
    unittest.main()
