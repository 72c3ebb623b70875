#!/usr/bin/env bash
# Builds the images of deploy/container/Containerfile and lets them run: devices, and a
# synthetic recording from end to end, as the image's own user. For a Debian that has
# neither a container engine nor a registry: buildah, on base images that are made here
# of Debian's packages and this machine's Rust. As root; Rust is compiled
# in one of them, which takes its time.
# The images stay in target/container: `buildah --root target/container images`.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null; then
  apt-get update --quiet && apt-get install --yes --no-install-recommends buildah mmdebstrap
fi
work=$(mktemp -d)
store=(--root "$PWD/target/container" --runroot "$work/run" --storage-driver overlay)
export BUILDAH_ISOLATION=chroot
build() { buildah "${store[@]}" "$@"; }
trap 'build rm --all >/dev/null || true; rm -rf "$work"' EXIT

debian=docker.io/library/debian:bookworm-slim
rust=docker.io/library/rust:1.95-slim-bookworm
python=docker.io/library/python:3.12-slim-bookworm
# Downloads go by this machine's certificates and this user's registry.
cargo=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$cargo/registry"
certificates=/machine-certificates.crt
machine=(--volume "/etc/ssl/certs/ca-certificates.crt:$certificates:ro"
  --volume "$cargo/registry:/cargo/registry")

has() { build inspect --type image "$1" >/dev/null 2>&1; }
# base NAME FROM PACKAGES..: an image of that name, unless there is one.
base() {
  local container
  container=$(build from --pull-never "$2")
  build run "$container" -- sh -c "apt-get update --quiet \
    && apt-get install --yes --no-install-recommends ${*:3} && rm -rf /var/lib/apt/lists/*"
  [[ $1 != "$rust" ]] || build copy --quiet "$container" "$(rustc --print sysroot)" /usr/local
  build config --env CARGO_HOME=/cargo --env "CARGO_HTTP_CAINFO=$certificates" \
    --env "PIP_CERT=$certificates" "$container"
  build commit --quiet "$container" "$1"
}
if ! has "$debian"; then
  mmdebstrap --variant=minbase bookworm "$work/debian.tar"
  container=$(build from scratch)
  build add --quiet "$container" "$work/debian.tar" /
  build commit --quiet "$container" "$debian"
fi
has "$rust" || base "$rust" "$debian" ca-certificates gcc libc6-dev
has "$python" || base "$python" "$debian" python3-pip python-is-python3

for target in cpu cuda; do
  build build --layers --pull-never "${machine[@]}" --target "$target" \
    --file deploy/container/Containerfile --tag "hepaflow:$target" .
done

# What the user would mount: recordings, and a pipeline file.
cat >"$work/pipeline.toml" <<'TEXT'
[model]
path = "/usr/share/hepaflow/models/demo"
[[source]]
name = "phantom"
kind = "cohort"
path = "/var/lib/hepaflow/cohort"
crop = { x = 208, y = 90, width = 224, height = 120 }
[store]
path = "/var/lib/hepaflow/results.sqlite"
TEXT
for target in cpu cuda; do
  container=$(build from --pull-never "hepaflow:$target")
  run() { build run --user 10001 "$container" -- hepaflow "$@"; }
  build copy --quiet "$container" "$work/pipeline.toml" /etc/hepaflow/pipeline.toml
  echo "== hepaflow:$target" >&2
  run devices
  run phantom --patients 1 --seconds 4 --frames-per-second 25 --frame-size 640x480 \
    --episodes 0 --format avi --out cohort
  run run /etc/hepaflow/pipeline.toml
  run results patients --store results.sqlite
done
