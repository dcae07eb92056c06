#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every trace in traces/ verifies, is read by the h5py reader and can be replayed. Skipped (77) while there is none."""
import pathlib
import sys
import tempfile

import h5py

import programs
import read_trace_test


def check_trace(trace, folder):
    programs.expect("kvscope", "info", trace)
    programs.expect("kvscope", "verify", trace)
    programs.check(read_trace_test.main(str(trace)) == 0, f"{trace}: recorded and rebuilt rows differ")
    results = folder / f"{trace.stem}.replay.h5"
    programs.expect("kvscope-replay", "run", trace, "--policy", "snapkv,h2o", "--keep-fraction", "0.5,0.25", "-o", results, "--csv", folder / "replay.csv", timeout=300)
    lines = (folder / "replay.csv").read_text(encoding="utf-8").splitlines()
    columns = lines[0].split(",")
    programs.check(len(lines) >= 1 + 4, f"{trace}: {len(lines) - 1} rows of results, expected at least 4")
    programs.check("kept_fraction" in columns and "policy" in columns, f"{trace}: the results lack columns")
    with h5py.File(results) as file:
        programs.check(file.attrs["format"] in ("kvscope.results", b"kvscope.results"), f"{results}: format {file.attrs['format']}")
        refused = file["column/refused_reason"] if "column/refused_reason" in file else ()
        programs.check(len(refused) == 0, f"{trace}: replay refused rows")
    programs.expect("kvscope-replay", "report", results, "-o", folder / "report.html", timeout=300)


def main():
    traces = sorted((programs.REPOSITORY / "traces").glob("*.kvtrace.h5"))
    if not traces:
        programs.skip("no traces are committed")
    with tempfile.TemporaryDirectory(prefix="kvscope_committed_") as folder:
        for trace in traces:
            check_trace(trace, pathlib.Path(folder))
    print(f"{len(traces)} traces verify and replay")
    return 0


if __name__ == "__main__":
    sys.exit(main())
