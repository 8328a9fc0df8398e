#!/bin/sh
# Makes the database when the volume is empty, then becomes the server. The password stands in the file that POSTGRES_PASSWORD_FILE names.
set -eu
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
	[ -s "${POSTGRES_PASSWORD_FILE:?names no file}" ] || { echo "no password in $POSTGRES_PASSWORD_FILE" >&2; exit 1; }
	rm -rf "$data.new"
	initdb --pgdata "$data.new" --username postgres --pwfile "$POSTGRES_PASSWORD_FILE" --auth-host scram-sha-256 --no-locale --encoding UTF8
	echo 'host all all all scram-sha-256' >>"$data.new/pg_hba.conf"
	mv "$data.new" "$data" # a power cut leaves no half of one
fi
exec postgres -D "$data" -c listen_addresses='*' -c jit=off
