#!/bin/sh
# The official image's contract: make the database on the first start, then be postgres.
# Writes only to $PGDATA, /var/run/postgresql and /tmp, so that the root filesystem may be read-only.
set -eu

fail() {
    echo "docker-entrypoint: $*" >&2
    exit 1
}

empty() {
    rm -rf "$1"/* "$1"/.[!.]*
}

# NAME from the environment, or from the file that NAME_FILE names.
setting() {
    eval "value=\${$1:-} file=\${$1_FILE:-}"
    if [ -n "$value" ] && [ -n "$file" ]; then
        fail "$1 and $1_FILE are both set: set one"
    fi
    if [ -n "$file" ]; then
        value=$(cat "$file")
    fi
    printf '%s' "${value:-${2:-}}"
}

case ${1:-} in
    '' | -*) set -- postgres "$@" ;;
esac
if [ "$1" != postgres ]; then
    exec "$@"
fi
# A question such as `postgres --version` needs no database.
for argument; do
    case $argument in
        '-?' | --help | --describe-config | -V | --version) exec "$@" ;;
    esac
done

if [ "$(id -u)" = 0 ]; then
    # postgres refuses to run as root.
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    exec su -m -s /bin/sh postgres -c 'exec "$0" "$@"' "$0" "$@"
fi

mkdir -p "$PGDATA" || fail "cannot create PGDATA=$PGDATA as uid $(id -u): mount a writable volume there, or set fsGroup"
chmod 0700 "$PGDATA" 2>/dev/null || true

# Killed half-way, initdb leaves a folder that resembles a database and never starts. The marker stands until the
# database is complete, and no client got in before that. (Not possible where PGDATA is itself the mount.)
marker=$PGDATA.unfinished
if [ -e "$marker" ]; then
    echo "docker-entrypoint: the first start was interrupted: beginning again in $PGDATA"
    empty "$PGDATA"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    POSTGRES_USER=$(setting POSTGRES_USER postgres)
    POSTGRES_PASSWORD=$(setting POSTGRES_PASSWORD)
    POSTGRES_DB=$(setting POSTGRES_DB "$POSTGRES_USER")
    POSTGRES_INITDB_ARGS=$(setting POSTGRES_INITDB_ARGS)
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    export POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$method" != trust ]; then
        fail "set POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) to a password for the superuser"
    fi

    scratch=$(mktemp -d /tmp/initdb.XXXXXX) || fail "cannot write to /tmp: mount an emptyDir there"
    trap 'rm -rf "$scratch"' EXIT

    if ! getent passwd "$(id -u)" >/dev/null; then
        # initdb asks for the name of the user it runs as, and an arbitrary uid has none.
        echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/sh" >"$scratch/passwd"
        echo "postgres:x:$(id -g):" >"$scratch/group"
        preload=$(ls /usr/lib/*/libnss_wrapper.so)
        export LD_PRELOAD="$preload" NSS_WRAPPER_PASSWD="$scratch/passwd" NSS_WRAPPER_GROUP="$scratch/group"
    fi

    # The mount itself may hold lost+found, which initdb takes for other data: report the cause.
    if [ -n "$(ls -A "$PGDATA")" ]; then
        fail "PGDATA=$PGDATA holds files but no database: empty it, or point PGDATA at a folder below the mount"
    fi
    touch "$marker" 2>/dev/null || true
    printf '%s\n' "$POSTGRES_PASSWORD" >"$scratch/password"
    # shellcheck disable=SC2086 # the arguments are meant to be split
    initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" ${POSTGRES_PASSWORD:+--pwfile="$scratch/password"} \
        --auth-local=trust --auth-host="$method" --encoding=UTF8 \
        --set listen_addresses='*' --set unix_socket_directories=/var/run/postgresql \
        $POSTGRES_INITDB_ARGS || {
        # A half-made folder would pass for a database at the next start.
        empty "$PGDATA"
        fail "initdb failed; its message is above"
    }
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    pg_ctl --pgdata="$PGDATA" --wait --silent -o "-c listen_addresses=''" start
    query() {
        psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 --username="$POSTGRES_USER" "$@"
    }
    if [ "$POSTGRES_DB" != postgres ]; then
        query --dbname=postgres -v db="$POSTGRES_DB" <<'SQL'
CREATE DATABASE :"db";
SQL
    fi
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sh) sh "$script" ;;
            *.sql) query --dbname="$POSTGRES_DB" --file="$script" ;;
            *.sql.gz) gunzip -c "$script" | query --dbname="$POSTGRES_DB" ;;
        esac
    done
    pg_ctl --pgdata="$PGDATA" --wait --silent --mode=fast stop

    rm -rf "$scratch" "$marker"
    trap - EXIT
    unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    echo "docker-entrypoint: database \"$POSTGRES_DB\" made in $PGDATA"
fi

unset POSTGRES_PASSWORD
exec "$@"
