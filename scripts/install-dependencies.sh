#!/usr/bin/env bash
# Installs the system packages that building and running hepaflow needs, where
# they are missing: Debian's and Ubuntu's by apt-get, as root or through sudo.
# Elsewhere it says what is missing. Cargo is the only thing it expects.
set -euo pipefail

packages=(
  build-essential                      # cc, for SQLite inside the binary
  pkg-config
  libgstreamer1.0-dev                  # video in
  libgstreamer-plugins-base1.0-dev
  gstreamer1.0-plugins-base
  gstreamer1.0-plugins-good            # AVI, MP4, MKV, JPEG, RTP
  gstreamer1.0-plugins-bad             # h264parse, MPEG-TS
  gstreamer1.0-plugins-ugly            # x264enc, to make recordings
  gstreamer1.0-libav                   # H.264 and HEVC decoders
)
# Only for tests: `scripts/install-dependencies.sh --tests`.
if [[ ${1:-} == --tests ]]; then
  packages+=(python3 python3-pip curl)
  # a scanner with an RTSP socket, and a peer that pushes DICOM
  packages+=(python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-tools dcmtk)
  # who signs models
  packages+=(openssl)
  # a browser that clicks through the dashboard, with Chinese letters, and promtool
  packages+=(chromium chromium-driver fonts-wqy-microhei prometheus)
  # an archive of DICOM to pull from and to file with, and a validator
  packages+=(orthanc dicom3tools)
  # what reads a compose file
  packages+=(docker-compose)
  # the store's other database, started by the tests
  packages+=(postgresql)
fi

fail() {
  printf 'hepaflow cannot be built here yet: %s\n' "$1" >&2
  exit 1
}

if ! command -v cargo >/dev/null; then
  [[ -f $HOME/.cargo/env ]] && . "$HOME/.cargo/env"
  command -v cargo >/dev/null || fail 'cargo is missing: install Rust with rustup (https://rustup.rs)'
fi

if ! command -v dpkg-query >/dev/null; then
  if pkg-config --exists 'gstreamer-1.0 >= 1.22' 'gstreamer-app-1.0 >= 1.22' 2>/dev/null; then
    exit 0
  fi
  fail "this is no Debian; install GStreamer 1.22 or newer with its development files and the plugin sets base, good, bad, ugly and libav, then run this again"
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [[ $status == 'install ok installed' ]] || missing+=("$package")
done
# A python or curl that came another way is as good.
if [[ ${1:-} == --tests ]]; then
  keep=()
  for package in ${missing[@]+"${missing[@]}"}; do
    case $package in
      python3) command -v python3 >/dev/null && continue ;;
      python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
      curl) command -v curl >/dev/null && continue ;;
    esac
    keep+=("$package")
  done
  missing=(${keep[@]+"${keep[@]}"})
fi
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null \
    || fail "these packages are missing, and there is neither root nor sudo to install them: ${missing[*]}"
  as_root=(sudo)
fi
printf 'installing: %s\n' "${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq \
  || fail "apt-get update failed; these packages are missing: ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
  || fail "apt-get could not install: ${missing[*]}"
