#!/usr/bin/env python3
"""Checks every crate that is built, with every feature, offline: its licence is one that may be
linked into this program, it comes from the registry, and no crate that we have
reason to avoid came in by the back door."""

import json
import re
import subprocess
import sys

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "IJG", "ISC", "MIT", "MIT-0", "NCSA", "Unicode-3.0", "Unlicense", "Zlib",
}
# May be linked, unmodified, though what is changed in them must be published.
EXCEPTIONS = {
    "colored": "MPL-2.0",  # burn-tensor wants it; only in builds that can train
}
BANNED = {
    "openssl": "use rustls: one TLS, and no system library",
    "protobuf": "prometheus with default-features = false does without",
}


def satisfied(expression: str) -> bool:
    """Whether an SPDX expression can be met by the allowed licences."""
    tokens = re.findall(r"\(|\)|[^\s()]+(?:\s+WITH\s+\S+)?", expression.replace("/", " OR "))

    def alternatives(position: int) -> tuple[bool, int]:
        value, position = terms(position)
        while position < len(tokens) and tokens[position] == "OR":
            other, position = terms(position + 1)
            value = value or other
        return value, position

    def terms(position: int) -> tuple[bool, int]:
        value, position = term(position)
        while position < len(tokens) and tokens[position] == "AND":
            other, position = term(position + 1)
            value = value and other
        return value, position

    def term(position: int) -> tuple[bool, int]:
        if tokens[position] == "(":
            value, position = alternatives(position + 1)
            return value, position + 1
        return tokens[position] in ALLOWED, position + 1

    return alternatives(0)[0]


def built() -> set[str]:
    """`name version` of what is compiled on any target. The lock file has more:
    what a dependency would need with features that are off."""
    command = ["cargo", "tree", "--locked", "--features", "train", "--target", "all"]
    command += ["--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"]
    lines = subprocess.check_output(command, text=True).splitlines()
    return {" ".join(line.split()[:2]).replace(" v", " ") for line in lines if line}


def main() -> int:
    command = ["cargo", "metadata", "--format-version", "1", "--features", "train"]
    metadata = json.loads(subprocess.check_output(command))
    packages = built()
    faults = []
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["source"] is None or name not in packages:
            continue
        if not package["source"].startswith("registry+"):
            faults.append(f"{name}: does not come from a registry")
        licence = package["license"]
        exception = EXCEPTIONS.get(package["name"]) == licence
        if not exception and (not licence or not satisfied(licence)):
            faults.append(f"{name}: licence {licence or 'unknown'} is not on the list")
        reason = BANNED.get(package["name"])
        if reason:
            faults.append(f"{name}: {reason}")
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(packages)} crates checked, {len(faults)} faults", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
