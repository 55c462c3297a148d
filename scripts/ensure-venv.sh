#!/bin/sh
# scripts/ensure-venv.sh SET     (SET: recover, demo, test or all)
# Finds a Python and has ensure_venv.py make .venv, or bring it up to date.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# The upper bound is that of the locked wheels: coincurve has none for 3.14.
for python in python3 python3.11 python3.12 python3.13; do
    # Run it rather than look for it: a shim on the path need not lead to a Python.
    if "$python" -I -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
        >/dev/null 2>&1; then
        exec "$python" -I "$here/ensure_venv.py" "$@"
    fi
done

found=$(python3 --version 2>/dev/null || echo "no python3")
echo "keycairn needs Python 3.11, 3.12 or 3.13 to run from a checkout; here: $found." >&2
echo "On Debian: apt-get install python3 python3-venv" >&2
exit 1
