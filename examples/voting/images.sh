#!/usr/bin/env bash
# Makes images without a registry and without an engine, in the format of `docker save`: the voting app from our own static program, or
# the real Redis and PostgreSQL from this distribution's packages. The same input gives the same bytes.
#
#	images.sh app PROGRAM OUTPUT.tar
#	images.sh databases OUTPUT.tar
set -euo pipefail
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
unpack=$here/../../test/unpack.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/out
manifest=()
mkdir "$out"

# Not for a container with one process: what installs, starts at boot, rotates logs; and PostgreSQL's compiler, which takes 100 MB.
unneeded='^(adduser|debconf.*|perl.*|libperl.*|systemd.*|libsystemd-shared.*|passwd|postgresql-(common|client-common).*|ssl-cert|lsb-.*|ucf|logrotate|cron.*|init-system-helpers|dpkg|tar|libllvm.*|libz3.*|sysvinit-utils|util-linux.*|mount|login|netbase|locales.*|python3.*|libpython.*|openssl|sensible-utils|gcc-.*-base|media-types|cdebconf|install-info|.*-perl|whiptail|lib(elogind|debian-installer|newt|slang|gdbm|semanage|sepol).*)$'

# closure lists what packages need, and a shell with the usual tools. What is virtual has no archive.
closure() {
	# shellcheck disable=SC2046 # one package a word
	apt-cache policy $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" dash coreutils |
		grep '^[a-z0-9]' | grep -v ':' | sort -u | grep -Ev "$unneeded") |
		awk '/^[a-z0-9]/ {name = $1; sub(":$", "", name)} /Candidate:/ && $2 != "(none)" {print name}'
}

# root makes a folder of packages; no script of theirs runs, so users and their folders are made here.
root() {
	local to=$1
	shift
	# shellcheck disable=SC2046 # one package a word
	"$unpack" "$to" $(closure "$@")
	mkdir -p "$to"/{tmp,run/postgresql,etc,proc,sys,dev,data,var/lib/postgresql}
	chmod 1777 "$to/tmp"
	ln -s ../run "$to/var/run"
	printf 'root:x:0:0::/:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\nredis:x:71:71::/data:/bin/sh\n' >"$to/etc/passwd"
	printf 'root:x:0:\npostgres:x:70:\nredis:x:71:\n' >"$to/etc/group"
	chown 70:70 "$to/var/lib/postgresql" "$to/run/postgresql"
	chown 71:71 "$to/data"
	rm -rf "$to"/usr/share/{doc,man,locale,info,lintian,bash-completion} "$to"/usr/lib/postgresql/*/lib/bitcode
}

# image packs a folder: name, folder, the image's configuration as JSON.
image() {
	local name=$1 from=$2 config=$3 sum
	tar -C "$from" --sort=name --mtime=@0 --numeric-owner -cf "$out/$name.layer.tar" .
	sum=$(sha256sum "$out/$name.layer.tar" | cut -d' ' -f1)
	printf '{"architecture":"%s","os":"linux","created":"2026-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"$(go env GOARCH)" "$config" "$sum" >"$out/$name.json"
	manifest+=("{\"Config\":\"$name.json\",\"RepoTags\":[\"voting/$name:latest\"],\"Layers\":[\"$name.layer.tar\"]}")
}

app() {
	mkdir "$work/app"
	install -m 755 "$1" "$work/app/voting"
	image app "$work/app" '{"Entrypoint":["/voting"]}'
}

databases() {
	local path='"PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/bin"' version
	echo "voting: Redis and PostgreSQL from this distribution's packages"
	root "$work/redis" redis-server
	image redis "$work/redis" "{\"Env\":[$path],\"User\":\"redis\",\"WorkingDir\":\"/data\",\"Entrypoint\":[\"redis-server\"],\"Cmd\":[\"--protected-mode\",\"no\",\"--save\",\"\"]}"
	version=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	root "$work/postgres" "postgresql-$version"
	ln -s "$version/bin" "$work/postgres/usr/lib/postgresql/bin"
	install -m 755 "$here/postgres.sh" "$work/postgres/entrypoint"
	image postgres "$work/postgres" "{\"Env\":[$path],\"User\":\"postgres\",\"Entrypoint\":[\"/entrypoint\"],\"Volumes\":{\"/var/lib/postgresql\":{}}}"
}

kind=$1 output=$(realpath -m "${*: -1}")
case $kind in
app) app "$2" ;;
databases) databases ;;
*) echo "usage: images.sh app PROGRAM OUTPUT.tar | databases OUTPUT.tar" >&2; exit 2 ;;
esac
(IFS=,; printf '[%s]' "${manifest[*]}") >"$out/manifest.json"
mkdir -p "$(dirname "$output")"
tar -C "$out" --sort=name --mtime=@0 -cf "$output.new" .
mv "$output.new" "$output" # whole or not at all
