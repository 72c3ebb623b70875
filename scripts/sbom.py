#!/usr/bin/env python3
"""Prints what hepaflow is made of: a CycloneDX 1.5 bill of materials (JSON) of every
crate that is linked into the program, by `cargo metadata`, offline.

    scripts/sbom.py > hepaflow.cdx.json
    scripts/sbom.py --features train > hepaflow.cdx.json
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = next(
    line.split()[1]
    for line in subprocess.run(
        ["rustc", "-vV"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    if line.startswith("host:")
)


def metadata() -> dict:
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline"]
    command += ["--filter-platform", HOST, *sys.argv[1:]]
    output = subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout
    return json.loads(output)


def checksums() -> dict:
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(it["name"], it["version"]): it.get("checksum") for it in lock["package"]}


def linked(resolve: dict) -> dict:
    """The packages that the root needs to run or to be built, and whom each needs."""
    nodes = {node["id"]: node for node in resolve["nodes"]}
    needs, left = {}, [resolve["root"]]
    while left:
        package = left.pop()
        if package in needs:
            continue
        kinds = lambda dep: {kind["kind"] for kind in dep["dep_kinds"]}
        needs[package] = [
            dep["pkg"] for dep in nodes[package]["deps"] if kinds(dep) != {"dev"}
        ]
        left += needs[package]
    return needs


def component(package: dict, sums: dict) -> dict:
    name, version = package["name"], package["version"]
    found = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if package.get("license"):
        expression = package["license"].replace("/", " OR ")
        found["licenses"] = [{"expression": expression}]
    if sums.get((name, version)):
        found["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    return found


def main() -> None:
    data, sums = metadata(), checksums()
    packages = {package["id"]: package for package in data["packages"]}
    needs = linked(data["resolve"])
    ref = lambda package: component(packages[package], {})["bom-ref"]
    root = component(packages[data["resolve"]["root"]], {}) | {"type": "application"}
    crates = sorted(needs.keys() - {data["resolve"]["root"]}, key=ref)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": [component(packages[crate], sums) for crate in crates],
        "dependencies": [
            {"ref": ref(package), "dependsOn": sorted({ref(need) for need in needs[package]})}
            for package in sorted(needs, key=ref)
        ],
    }
    print(json.dumps(bom, indent=1))


main()
