#!/bin/sh
# Installs what ./demo and ./test need from the operating system, where it is missing.
# Run by .ci/run; safe to run again. Needs root only when something is missing.
set -eu

need() { missing="$missing $1"; }
missing=''
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || need python3-venv
command -v softhsm2-util >/dev/null 2>&1 || need softhsm2 # a PKCS#11 token for tests/encryptors

# The second verifier, verifier-ts: node 18 or later.
node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18)' >/dev/null 2>&1 || need nodejs
command -v npm >/dev/null 2>&1 || need npm

command -v pg_lsclusters >/dev/null 2>&1 || need postgresql
command -v mariadbd >/dev/null 2>&1 || need mariadb-server
command -v mariadb-backup >/dev/null 2>&1 || need mariadb-backup # physical copies, tests/disasters

new=$missing
if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "setup-ci: please install:$missing" >&2
        exit 1
    fi
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of packages
    apt-get install -y -qq --no-install-recommends $missing
fi

# The databases of the tests: started if they are installed here and don't run. Tests that are told
# of others (KEYCAIRN_TEST_POSTGRES, KEYCAIRN_TEST_MARIADB) need none here.
answers() { # PORT
    python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)' "$1" \
        >/dev/null 2>&1
}
await() { # PORT NAME
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if answers "$1"; then return 0; fi
        sleep 1
    done
    echo "setup-ci: $2 does not answer on port $1" >&2
    exit 1
}

if [ -z "${KEYCAIRN_TEST_POSTGRES:-}" ]; then
    cluster=$(pg_lsclusters -h | awk '$3 == 5432 { print $1, $2; exit }')
    case "$new" in
        *postgresql*) # ours alone: tests on this machine need no password
            sed -i 's/^\(host .*127.0.0.1.*\)scram-sha-256/\1trust/' \
                "/etc/postgresql/$(echo "$cluster" | tr ' ' /)/pg_hba.conf"
            # shellcheck disable=SC2086 # version and name
            pg_ctlcluster --skip-systemctl-redirect $cluster reload >/dev/null 2>&1 || true
            ;;
    esac
    # shellcheck disable=SC2086 # version and name
    answers 5432 || pg_ctlcluster --skip-systemctl-redirect $cluster start
    await 5432 PostgreSQL
fi
if [ -z "${KEYCAIRN_TEST_MARIADB:-}" ]; then
    answers 3306 || start-stop-daemon --start --oknodo --background --exec "$(command -v mariadbd)"
    await 3306 MariaDB
    case "$new" in
        *mariadb-server*) # ours alone, again
            mariadb -e "ALTER USER root@localhost IDENTIFIED VIA mysql_native_password USING PASSWORD('')"
            ;;
    esac
fi
