#!/usr/bin/env bash
# Installs what is missing of the Debian packages that Coppice is built from; --tests adds those of its tests.
# Needs root or sudo only where something is missing.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache lld
  libhwy-dev protobuf-compiler libprotobuf-dev librocksdb-dev libicu-dev
  nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libspdlog-dev libfmt-dev
  libopenmpi-dev openmpi-bin libboost-dev
)
if [ "${1:-}" = --tests ]; then
  packages+=(libgtest-dev libgmock-dev libbenchmark-dev python3-venv git)
fi

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "these packages are missing, and there is no sudo to install them with: ${missing[*]}" >&2
    exit 2
  fi
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
