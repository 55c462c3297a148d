#!/bin/sh
# Installs what ./demo and ./test need from the operating system, where it is missing.
# Run by .ci/run; safe to run again. Needs root only when something is missing.
set -eu

need() { missing="$missing $1"; }
missing=''
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || need python3-venv
command -v softhsm2-util >/dev/null 2>&1 || need softhsm2 # a PKCS#11 token for tests/encryptors

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "setup-ci: please install:$missing" >&2
    exit 1
fi
DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
apt-get update -qq
# shellcheck disable=SC2086 # a list of packages
apt-get install -y -qq --no-install-recommends $missing
