#!/usr/bin/env bash
# Installs what virtual machines for tests need: qemu, kmod, xz and Debian's kernels. Says what it does; does nothing if nothing is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH=$PATH:/usr/sbin:/sbin
kernels="6.12 6.1"

packages=()
[ -x /usr/lib/qemu/virtiofsd ] && command -v qemu-system-x86_64 >/dev/null || packages+=(qemu-system-x86)
command -v modprobe >/dev/null || packages+=(kmod)
command -v xz >/dev/null || packages+=(xz-utils)
fetch=()
for kernel in $kernels; do
	[ -e "../../build/vm/$kernel/vmlinuz" ] || fetch+=("$kernel")
done
[ ${#packages[@]} -ne 0 ] || [ ${#fetch[@]} -ne 0 ] || exit 0
command -v apt-get >/dev/null || { echo "setup: virtual machines for tests need ${packages[*]} and Debian's kernels; this machine has no apt-get to get them" >&2; exit 1; }

echo "setup: reading the package lists"
apt-get -q update >/dev/null 2>&1 || echo "setup: apt-get update failed; going on with the lists that are here" >&2
if [ ${#packages[@]} -ne 0 ]; then
	echo "setup: installing ${packages[*]} from this distribution's packages, for tests on other kernels"
	DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null
fi
for kernel in "${fetch[@]}"; do
	./kernel.sh "$kernel"
done
[ -x /usr/lib/qemu/virtiofsd ] || { echo "setup: this distribution's qemu has no /usr/lib/qemu/virtiofsd, as Debian 12's has" >&2; exit 1; }
