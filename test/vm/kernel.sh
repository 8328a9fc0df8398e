#!/usr/bin/env bash
# Puts one of Debian's cloud kernels with its modules into build/vm/<name>, where test/vm boots it from; nothing is installed. Says what it
# does; does nothing if it is there.
#   kernel.sh 6.12    the newest that Debian 12 has     kernel.sh 6.1    the one that Debian 12 came with
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:/usr/sbin:/sbin
name=${1:-}
case $name in
6.12) meta=linux-image-6.12-cloud-amd64 ;;
6.1) meta=linux-image-cloud-amd64 ;;
*) echo "kernel.sh: no kernel \"$name\": 6.12 or 6.1" >&2; exit 1 ;;
esac
folder=build/vm/$name
[ ! -e "$folder/vmlinuz" ] || exit 0

# The archive keeps only the newest of each: the package's name comes from the meta package.
package=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
[[ $package == linux-image-$name.* ]] || { echo "kernel.sh: this machine's package lists have no $meta with a kernel $name; test/vm/setup.sh reads them anew" >&2; exit 1; }
echo "kernel.sh: fetching the kernel $package for tests in a virtual machine"
mkdir -p build/vm
new=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$new"' EXIT
(
	cd "$new"
	apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null
	dpkg -x "$package"_*.deb .
	rm "$package"_*.deb
	# As on a machine with merged /usr, wherever the package puts them.
	[ -d lib/modules ] || ln -s usr/lib lib
	version=$(ls lib/modules)
	depmod -b . "$version"
	ln -s "boot/vmlinuz-$version" vmlinuz
)
chmod 755 "$new"
mv -T "$new" "$folder" || [ -e "$folder/vmlinuz" ] # another has fetched it meanwhile
