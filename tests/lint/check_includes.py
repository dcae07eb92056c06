#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what a compiler does not: who includes whom, file heads, file length, the top level, clang-format 14.

    tests/lint/check_includes.py [ROOT]      prints one line per finding, exits with 1 if there is any
"""
import pathlib
import re
import shutil
import subprocess
import sys

FOLDERS = ("core", "kernels", "capture", "replay", "viewer", "tests", "traces")
TOP_LEVEL = {*FOLDERS, "CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", "pyproject.toml"}
CODE = {".h", ".cpp", ".cu", ".cuh"}
HEADERS = {".h", ".cuh"}
MAX_LINES = 500

# Which areas an area may include. replay/live is an area of its own: only there replay and capture meet, and only a
# program's main file reaches it from replay. The viewer never runs the model, so it may not have replay/live.
MAY_INCLUDE = {
    "core": {"core"},
    "kernels": {"core", "kernels"},
    "capture": {"core", "kernels", "capture"},
    "replay": {"core", "kernels", "replay"},
    "replay/live": {"core", "kernels", "capture", "replay", "replay/live"},
    "viewer": {"core", "replay", "viewer"},
    "tests": {*FOLDERS, "replay/live"},
}
HDF5_FILES = {"core/h5.cpp", "core/h5_attributes.cpp"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
HDF5 = re.compile(r"(hdf5(_hl)?|H5\w*)\.h")
EIGEN = re.compile(r"(unsupported/)?Eigen/")
GUI = re.compile(r"(misc/cpp/)?(imgui|implot)\w*\.h|(GLFW|GL|EGL)/\w+\.h")
BARE_TODO = re.compile(r"\bTO" r"DO\b(?!\(#\d+\))")


def area_of(path: str) -> str:
    if path.startswith("replay/live/"):
        return "replay/live"
    return path.split("/", 1)[0]


def own_files(root: pathlib.Path):
    """Our text sources below the known folders, and the top level's; not what a build or a download left there."""
    yield from (p for p in (root / "CMakeLists.txt", root / ".ci/run") if p.exists())
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            inner = path.relative_to(root).as_posix()
            if "__pycache__" in inner or inner.startswith(("traces/out/", "traces/cache/")) or not path.is_file():
                continue
            is_script = path.suffix == "" and path.open("rb").read(2) == b"#!"
            if path.suffix in CODE | {".py"} or path.name == "CMakeLists.txt" or is_script:
                yield path


def check_include(path: str, quoted: str, angled: str):
    area, suffix = area_of(path), pathlib.PurePath(path).suffix
    if HDF5.fullmatch(angled or quoted) and path not in HDF5_FILES:
        yield f"includes {angled or quoted}; only {', '.join(sorted(HDF5_FILES))} may: go through core/h5.h"
    if EIGEN.match(angled or quoted) and suffix in HEADERS:
        yield f"includes {angled or quoted} in a header; Eigen belongs into .cpp files"
    if GUI.fullmatch(angled or quoted) and not path.startswith(("viewer/", "tests/")):
        yield f"includes {angled or quoted}; only the viewer draws"
    elif GUI.fullmatch(angled or quoted) and suffix in HEADERS:
        yield f"includes {angled or quoted} in a header; Dear ImGui, ImPlot, GLFW and OpenGL belong into .cpp files"
    if ".." in (angled or quoted).split("/"):
        yield f'includes "{angled or quoted}"; includes start at the root, without ".."'
    elif quoted and quoted.split("/", 1)[0] not in FOLDERS:
        yield f'includes "{quoted}"; our headers are included from the root ("folder/name.h"), others with <>'
    elif quoted and area_of(quoted) not in MAY_INCLUDE.get(area, set()):
        if not (area == "replay" and area_of(quoted) == "replay/live" and path.endswith("main.cpp")):
            allowed = ", ".join(sorted(MAY_INCLUDE.get(area, set()))) or "nothing"
            yield f'includes "{quoted}"; {area} may include {allowed}'


def check_file(path: str, text: str):
    """Yields (line, finding)."""
    lines = text.splitlines()
    suffix = pathlib.PurePath(path).suffix
    if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(lines[:2]):
        yield 1, "no SPDX line; begin with SPDX-License-Identifier: Apache-2.0"
    if len(lines) > MAX_LINES:
        yield len(lines), f"{len(lines)} lines; at most {MAX_LINES}: split the file"
    for match in BARE_TODO.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, f"{match.group()} without an issue; write {match.group()}(#12):"
    if suffix in HEADERS and "#pragma once" not in lines:
        yield 1, "no #pragma once"
    if suffix in CODE:
        for match in INCLUDE.finditer(text):
            for finding in check_include(path, match.group(1) or "", match.group(2) or ""):
                yield text.count("\n", 0, match.start(0)) + 1, finding


def check_top_level(root: pathlib.Path):
    for path in sorted(root.iterdir()):
        is_build = path.is_dir() and path.name.startswith("build")  # ignored by git
        if path.name not in TOP_LEVEL and not path.name.startswith(".") and not is_build:
            yield f"{path.name}:1: not a name of the top level; it holds {', '.join(sorted(TOP_LEVEL))} and dotfiles"


def check_format(root: pathlib.Path, paths):
    """One process over all files; of a file's findings the first is enough."""
    for program in ("clang-format-14", "clang-format"):
        if shutil.which(program):
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            if re.search(r"version 14\.", version):
                break
    else:
        yield "clang-format: version 14 not found; run tests/install tests/packages.txt"
        return
    command = [program, "--dry-run", "-Werror", "--style=file", "--ferror-limit=0", *paths]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    seen = set()
    for match in re.finditer(r"^(.+?):(\d+):\d+: error: code should be clang-formatted", result.stderr, re.MULTILINE):
        if match.group(1) not in seen:
            seen.add(match.group(1))
            yield f"{match.group(1)}:{match.group(2)}: not formatted; run {program} -i {match.group(1)}"
    if result.returncode != 0 and not seen:
        yield f"{program} failed: {result.stderr.strip()[:300]}"


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
    findings, code, count = list(check_top_level(root)), [], 0
    for path in own_files(root):
        inner = path.relative_to(root).as_posix()
        findings += [f"{inner}:{line}: {text}" for line, text in check_file(inner, path.read_text(encoding="utf-8"))]
        count += 1
        if path.suffix in CODE:
            code.append(inner)
    if not code:
        findings.append(f"{root}: no sources found; is it the root of the project?")
    else:
        findings += check_format(root, code)
    print("\n".join(findings), end="\n" if findings else "")
    print(f"{len(findings)} findings in {count} files")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
