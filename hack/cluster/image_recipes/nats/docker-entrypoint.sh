#!/bin/sh
# The official image's contract: bare options are nats-server's.
set -eu
case ${1:-} in
    '' | -*) set -- nats-server "$@" ;;
esac
exec "$@"
