# SPDX-License-Identifier: Apache-2.0
"""What the tests of the programs share: where they are, running them, skipping.

Environment: KVSCOPE_BIN (folder of kvscope, kvscope-capture, kvscope-replay; default build/bin) and KVSCOPE_MODEL (a real model).
"""
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("KVSCOPE_BIN", REPOSITORY / "build/bin")).resolve()
CACHE = pathlib.Path(os.environ.get("KVSCOPE_CACHE", REPOSITORY / "traces/cache"))
MODEL = pathlib.Path(os.environ.get("KVSCOPE_MODEL", CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"))
SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def run(*words, timeout=120, **options):
    """The finished process of one program in BIN, output as text."""
    return subprocess.run([str(BIN / words[0]), *map(str, words[1:])], capture_output=True, text=True, errors="replace", timeout=timeout, check=False, stdin=subprocess.DEVNULL, **options)


def expect(*words, status=0, **options):
    """Runs a program that must end with `status`; returns its standard output."""
    process = run(*words, **options)
    if process.returncode != status:
        raise SystemExit(f"{' '.join(map(str, words))}\nexit {process.returncode}, expected {status}\n{process.stdout}{process.stderr}")
    return process.stdout


def check(condition, message):
    if not condition:
        raise SystemExit(f"failed: {message}")


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)
