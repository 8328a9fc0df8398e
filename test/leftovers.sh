#!/usr/bin/env bash
# Prints, one per line and sorted, what tests could leave behind on this machine. Two runs, before and after, must be equal.
set -uo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

{
	ls /run/netns 2>/dev/null | sed 's/^/namespace /'
	# veth: the machine's own engine may start containers meanwhile.
	ls /sys/class/net | grep -v '^veth' | sed 's/^/link /'
	# With the identity of their start, so that a number used again is not taken for the same process.
	for process in /proc/[0-9]*; do
		line=$(tr '\0' ' ' <"$process/cmdline") || continue
		case $line in
		meshd-lab-init* | *bin/meshd\ * | *dockerd*mesh* | *containerd\ --config*mesh* | */containerd-shim*mesh* | */go-build*.test\ *)
			echo "process ${process#/proc/} started at $(awk '{print $22}' "$process/stat"): ${line:0:120}" ;;
		esac
	done
	awk '{print "mount " $5}' /proc/self/mountinfo | grep -e mesh -e ' /tmp/' -e /run/netns/
	find /sys/fs/cgroup -maxdepth 4 -type d -name '*mesh*' | sed 's/^/cgroup /'
	find /sys/fs/bpf -mindepth 1 2>/dev/null | grep mesh | sed 's/^/pin /'
	nft list tables 2>/dev/null | grep mesh | sed 's/^/nftables /'
	find /run/meshd /var/lib/meshd-lab -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/folder /'
} 2>/dev/null | sort -u
