#!/bin/sh
# Copyright The Tagger Authors.
# SPDX-License-Identifier: Apache-2.0

# Makes the namespaces of a cluster a place of their own. Runs in them, before anything else.
# usage: enter.sh DIR ADDRESS   DIR: the folder of the cluster; ADDRESS: that of the node, with the length of its network

set -o errexit -o nounset
dir=$1
address=$2

mount --make-rprivate /
mount -t proc proc /proc

# Some paths are fixed in the programs. What they write there is seen by them alone, and lies in memory.
mkdir "${dir}/private"
mount -t tmpfs tmpfs "${dir}/private"
for path in /run /var/lib /var/log; do
	layer=${dir}/private${path}
	mkdir -p "${layer}/upper" "${layer}/work"
	mount -t overlay overlay -o "lowerdir=${path},upperdir=${layer}/upper,workdir=${layer}/work" "${path}"
done

# AddHost writes there.
cat /etc/hosts >"${dir}/etc-hosts"
mount --bind "${dir}/etc-hosts" /etc/hosts

# The kubelet sets these for the whole machine where it does not find what it wants. This is what it finds.
while read -r name value; do
	file=${dir}/private/$(basename "${name}")
	echo "${value}" >"${file}"
	mount --bind "${file}" "/proc/sys/${name}"
done <<-END
	kernel/keys/root_maxbytes 25000000
	kernel/keys/root_maxkeys 1000000
	kernel/panic 10
	kernel/panic_on_oops 1
	vm/overcommit_memory 1
	vm/panic_on_oom 0
END

# The kubelet refuses the addresses of loopback, and not every kernel has dummy devices. The route out leads nowhere.
ip link set lo up
ip link add node0 type bridge
ip address add "${address}" dev node0
ip link set node0 up
ip route add default dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
