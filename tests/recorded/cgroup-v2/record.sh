#!/bin/bash
# How the files beside this were recorded: it is the init of a User Mode Linux (Debian's user-mode-linux, kernel 6.1.176),
# which has cgroup v2 whatever the machine has that it runs on. Nothing of that machine is changed.
#
#   mkdir /tmp/recorded
#   linux.uml mem=512M rootfstype=hostfs rootflags=/ ro con=null con0=null,fd:1 init=$PWD/record.sh
mount -t proc none /proc
mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t hostfs -o /tmp/recorded none /mnt
cd /sys/fs/cgroup || exit 1
echo "+cpu +memory" >cgroup.subtree_control
mkdir app
echo 67108864 >app/memory.max
echo "50000 100000" >app/cpu.max

# Run something in the group.
within() {
    # shellcheck disable=SC2016 # its own shell reads it
    bash -c 'echo $BASHPID >app/cgroup.procs; exec "$@"' within "$@"
}

# Keep the group's files as they are now.
record() {
    mkdir -p "/mnt/$1"
    for file in cpu.max cpu.stat memory.max memory.current memory.stat memory.events; do
        cat "app/$file" >"/mnt/$1/$file"
    done
    cat cgroup.controllers >"/mnt/$1/cgroup.controllers"
}

within true
record quiet
within timeout 5 python3 -c "while True: pass"
record throttled
within python3 -c "
import time
kept = b'x' * (32 << 20)
open('$(command -v busybox || command -v perl)', 'rb').read()
time.sleep(60)" &
sleep 3
record holding
kill %1
for _ in 1 2; do
    within python3 -c "
kept = []
while True: kept.append(bytearray(1 << 20))"
done
record killed
echo o >/proc/sysrq-trigger # off
sleep 5
