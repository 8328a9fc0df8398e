#!/usr/bin/env bash
# Unpacks packages of this distribution into a folder without installing them: nothing is started, no user is made. What was downloaded
# stays in build/debs.
#
#	unpack.sh FOLDER PACKAGE...
set -euo pipefail
folder=$(realpath -m "$1")
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p build/debs
cd build/debs

for program in apt-get dpkg-deb; do
	command -v "$program" >/dev/null || { echo "unpack: no $program: the packages $* come from Debian's or Ubuntu's archive" >&2; exit 1; }
done
# archives are named as apt does it, elsewhere: what is here already it would leave out.
archives() { (cd / && apt-get download --print-uris "$@") | awk '{print $2}'; }
download() { apt-get -q -o APT::Sandbox::User=root download "$@" 2>&1; }

[ $# -gt 0 ] || { echo "unpack: which packages?" >&2; exit 2; }
names=$(archives "$@") || { apt-get -q update >/dev/null && names=$(archives "$@"); } || { echo "unpack: the archive has not all of: $*" >&2; exit 1; }
# shellcheck disable=SC2086 # one file name a word
if ! ls $names >/dev/null 2>&1; then
	# Lists of last month name files that are not there any more.
	said=$(download "$@") || { apt-get -q update >/dev/null && names=$(archives "$@") && said=$(download "$@"); } ||
		{ printf '%s\n' "$said" >&2; echo "unpack: cannot download: $*" >&2; exit 1; }
fi
rm -rf "$folder"
mkdir -p "$folder"/usr/{bin,sbin,lib,lib64}
# As on every Debian since 12; not all packages know it yet.
for name in bin sbin lib lib64; do ln -s "usr/$name" "$folder/$name"; done
for name in $names; do
	dpkg-deb --fsys-tarfile "$name" | tar -x --keep-directory-symlink -C "$folder"
done
