#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests.
#   tests/run.sh                              all that fits an hour on two cores
#   tests/run.sh --long                       the full matrices too
#   tests/run.sh --sanitize address|thread    the unit and contract tests under a sanitizer
set -euo pipefail
cd "$(dirname "$0")/.."

long=0 sanitize=""
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=1 ;;
    --sanitize)
      sanitize=${2:-}
      case $sanitize in address | thread) ;; *) echo "--sanitize is '$sanitize'; address and thread are accepted" >&2; exit 2 ;; esac
      shift ;;
    *) echo "unknown option $1; --long and --sanitize address|thread are accepted" >&2; exit 2 ;;
  esac
  shift
done
[ "$long" = 0 ] || export COPPICE_TEST_LONG=1
cluster/install.sh --tests

if [ -n "$sanitize" ]; then
  build=build-$sanitize
  cmake -S . -B "$build" -G Ninja -DCOPPICE_SANITIZE="$sanitize" >/dev/null
  cmake --build "$build"
  exec ctest --test-dir "$build" -L 'unit|contract' --output-on-failure --parallel "$(nproc)"
fi

cmake -S . -B build -G Ninja -DCOPPICE_TESTS=ON >/dev/null
cmake --build build

# The oracles: a virtual environment for this list of packages, kept and used again.
requirements=tests/requirements.txt
venv=${COPPICE_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/coppice/venv-$(sha256sum $requirements | cut -c1-16)}
if [ ! -e "$venv/complete" ]; then
  echo "installing the oracles' Python packages into $venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet -r $requirements
  touch "$venv/complete"
fi

status=0
ctest --test-dir build --output-on-failure --parallel "$(nproc)" || status=1
export COPPICE=$PWD/build/coppice COPPICE_BUILD=$PWD/build HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/tidy tests/oracle tests/integration || status=1
exit $status
