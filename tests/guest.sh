# Runs inside a guest with an older kernel (see tests/setup/src/guest.rs): busybox sh, cgroup v2, an ext4 disk.
# Every check that fails ends the script with a message.
fail() {
  echo "FAILED: $*"; tail -n 40 /var/log/agent.log; dmesg | grep "avc:" | tail -n 5; cat /run/lamina/pods/*/shim.log 2>/dev/null || true
  exit 1
}
check() { what=$1; shift; "$@" >/tmp/out 2>&1 || { cat /tmp/out; fail "$what"; }; echo "ok: $what"; }
until_ok() { what=$1; shift; end=$(($(date +%s) + 60)); until "$@" >/tmp/out 2>&1; do [ "$(date +%s)" -lt $end ] || { cat /tmp/out; fail "$what"; }; sleep 0.1; done; echo "ok: $what"; }
# The one process with exactly these arguments.
process() { for p in /proc/[0-9]*; do [ "$(tr "\0" " " <$p/cmdline 2>/dev/null)" != "$* " ] || echo "${p#/proc/}"; done; }
group() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$1/cgroup")"; }
# A pod's manifest: its name, then lines of its spec.
pod() { name=$1; shift; { printf 'apiVersion: v1\nkind: Pod\nmetadata: { name: %s }\nspec:\n  terminationGracePeriodSeconds: 0\n' "$name"; printf '  %s\n' "$@"; } >/tmp/pod; mv /tmp/pod "/etc/lamina/manifests/$name.yaml"; }
image=oci:/layout:busybox
from="image: \"$image\", imagePullPolicy: IfNotPresent"
mkdir -p /etc/lamina/manifests
kernel=$(uname -r)

echo "# SELinux keeps containers to what is theirs"
mount -t selinuxfs none /sys/fs/selinux
check "the policy is loaded" sh -c 'cat /policy >/sys/fs/selinux/load'
echo 1 >/sys/fs/selinux/enforce

echo "# the agent finds out what the kernel has"
mounts_before=$(wc -l </proc/mounts)
groups_before=$(find /sys/fs/cgroup -mindepth 1 -type d | sort)
start_agent() {
  lamina agent --log-level debug --network none "$@" >>/var/log/agent.log 2>&1 & agent=$!
  until_ok "the agent is ready" wget -q -O /dev/null http://127.0.0.1:9640/readyz
}
stop_agent() { kill $agent; wait $agent || fail "the agent ended with $?"; }
start_agent
lamina info >/tmp/info || fail "lamina info"
cat /tmp/info
check "cgroups are v2 alone" grep -Eq 'cgroups +v2$' /tmp/info
check "shims attach their layers" grep -Eq 'mounts +attached' /tmp/info
check "layers are EROFS" grep -Eq 'driver +erofs$' /tmp/info
case $kernel in
  6.1.*) check "layers go through loop devices" grep -Eq 'layers are mounted +from files through loop devices$' /tmp/info ;;
  *) check "layers are mounted from files" grep -Eq 'layers are mounted +from files$' /tmp/info ;;
esac
check "the trial left no loop device" sh -c '! losetup -a | grep .'

echo "# a pod on shared layers"
pod web "containers:" \
  "- { name: a, $from, command: [sleep, '1001'], resources: { limits: { cpu: 250m, memory: 64Mi } }, volumeMounts: [{ name: v, mountPath: /v }, { name: m, mountPath: /m }, { name: c, mountPath: /c, readOnly: true }, { name: h, mountPath: /h }] }" \
  "- { name: b, $from, command: [sleep, '1000'], volumeMounts: [{ name: v, mountPath: /v, subPath: in }, { name: m, mountPath: /m }] }" \
  "volumes:" "- { name: v, emptyDir: {} }" "- { name: m, emptyDir: { medium: Memory, sizeLimit: 1Mi } }" \
  "- { name: c, configMap: { name: text } }" "- { name: h, hostPath: { path: /layout } }"
cat >/etc/lamina/manifests/text.yaml <<END
apiVersion: v1
kind: ConfigMap
metadata: { name: text }
data: { key: value }
END
until_ok "a pod of two containers runs" lamina wait pod/web --for=ready --timeout 5s
check "the file system is the image's" lamina exec web -c a -- /bin/busybox true
check "writes are possible" lamina exec web -c a -- sh -c 'echo a >/mark; rm /bin/yes'
check "writes are private" lamina exec web -c b -- sh -c '! test -e /mark && test -e /bin/yes'
check "volumes are shared" lamina exec web -c a -- sh -c 'echo 1 >/v/in/file; echo 2 >/m/file'
check "by both containers" lamina exec web -c b -- sh -c 'grep -qx 1 /v/file && grep -qx 2 /m/file'
check "a volume in memory has its size" lamina exec web -c b -- sh -c '! head -c 2097152 /dev/zero >/m/big; rm /m/big'
check "a ConfigMap is there, for reading" lamina exec web -c a -- sh -c 'grep -qx value /c/key && ! touch /c/more'
check "a directory of the host is there" lamina exec web -c a -- test -e /h/index.json
check "nothing of it is mounted on the host" sh -c '! grep -E "overlay|erofs" /proc/mounts'
case $kernel in
  6.1.*)
    check "one loop device backs the one layer" sh -c '[ "$(losetup -a | wc -l)" = 1 ]'
    check "its pages are not cached twice" grep -qx 1 /sys/block/loop0/loop/dio
    ;;
  *) check "no loop device is in use" sh -c '! losetup -a | grep .' ;;
esac

echo "# cgroup v2"
pid=$(process sleep 1001)
group=$(group "$pid")
check "the memory limit is set" grep -qx 67108864 "$group/memory.max"
check "what it asked for is reclaimed last" grep -qx 67108864 "$group/memory.low"
check "the cpu limit is set" grep -qx '25000 100000' "$group/cpu.max"
check "a container is killed as a whole" grep -qx 1 "$group/memory.oom.group"
check "the pod's tasks are limited" grep -qx 8192 "$group/../pids.max"
check "controllers are delegated to containers" sh -c "grep -w memory '$group/cgroup.controllers' | grep -w cpu | grep -wq pids"
check "no process lives in an inner group" sh -c "! grep . '$group/../cgroup.procs' '$group/../../cgroup.procs'"
check "the container sees its own group as the root" lamina exec web -c a -- grep -qx '0::/' /proc/self/cgroup
check "its limits are to be read inside" lamina exec web -c a -- grep -qx 67108864 /sys/fs/cgroup/memory.max
check "and not to be written" lamina exec web -c a -- sh -c '! echo max >/sys/fs/cgroup/memory.max'
wget -q -O /tmp/metrics http://127.0.0.1:9640/metrics || fail "metrics"
for series in container_memory_working_set_bytes container_cpu_usage_seconds_total container_spec_memory_limit_bytes; do
  check "$series is told" grep -Eq "^$series\{.*container=\"a\".*\} [0-9.]*[1-9]" /tmp/metrics
done

echo "# resources change in place"
sed 's/memory: 64Mi/memory: 96Mi/; s/cpu: 250m/cpu: 300m/' /etc/lamina/manifests/web.yaml >/tmp/web && mv /tmp/web /etc/lamina/manifests/web.yaml
until_ok "the new memory limit is set" grep -qx 100663296 "$group/memory.max"
until_ok "and the new cpu limit" grep -qx '30000 100000' "$group/cpu.max"
check "the same process runs on" sh -c "[ \"\$(cut -d ' ' -f 1 /proc/$pid/stat)\" = $pid ]"
pod sure "containers:" "- { name: a, $from, command: [sleep, '1003'], resources: { limits: { cpu: 100m, memory: 32Mi } } }"
until_ok "a pod of the best class runs" lamina wait pod/sure --for=ready --timeout 5s
check "its memory is not reclaimed at all" grep -qx 33554432 "$(group "$(process sleep 1003)")/memory.min"
check "nor that of the pod as a whole" grep -qx 33554432 "$(group "$(process sleep 1003)")/../memory.min"

echo "# huge pages"
echo 8 >/proc/sys/vm/nr_hugepages
pod huge "containers:" \
  "- { name: a, $from, command: [sleep, '1004'], resources: { limits: { hugepages-2Mi: 4Mi, memory: 32Mi } }, volumeMounts: [{ name: p, mountPath: /pages }] }" \
  "volumes:" "- { name: p, emptyDir: { medium: HugePages } }"
until_ok "a pod with huge pages runs" lamina wait pod/huge --for=ready --timeout 5s
check "it has no more of them than it may" grep -qx 4194304 "$(group "$(process sleep 1004)")/hugetlb.2MB.max"
check "and a place for files in them" lamina exec huge -c a -- grep -Eq '^[^ ]+ /pages hugetlbfs .*pagesize=2M' /proc/mounts
pod greedy "restartPolicy: Never" "containers:" \
  "- { name: a, $from, command: [sleep, '1005'], resources: { limits: { hugepages-2Mi: 4Gi, memory: 32Mi } } }"
until_ok "one that wants more than there are is refused" sh -c 'lamina get pods greedy -o json | grep -q OutOfhugepages-2Mi'
rm /etc/lamina/manifests/huge.yaml /etc/lamina/manifests/greedy.yaml /etc/lamina/manifests/sure.yaml
until_ok "they are gone" sh -c '! lamina get pods -A -o name | grep -Eq "huge|greedy|sure"'
echo 0 >/proc/sys/vm/nr_hugepages

echo "# what this kernel cannot do is refused with the reason"
pod mapped "hostUsers: false" "containers:" "- { name: a, $from, command: [sleep, '1006'] }"
until_ok "user namespaces of pods" sh -c 'lamina get pods mapped -o json | grep -q UserNamespacesNotSupported'
rm /etc/lamina/manifests/mapped.yaml

echo "# SELinux"
label() { tr -d '\0' </proc/$1/attr/current; }
echo secret >/layout/secret
labelled() { # NAME SECONDS OPTIONS
  pod "$1" "securityContext: { seLinuxOptions: $3 }" "containers:" \
    "- { name: a, $from, command: [sleep, '$2'], volumeMounts: [{ name: v, mountPath: /v }, { name: m, mountPath: /m }, { name: c, mountPath: /c }, { name: i, mountPath: /i }, { name: h, mountPath: /h }] }" \
    "volumes:" "- { name: v, emptyDir: {} }" "- { name: m, emptyDir: { medium: Memory } }" "- { name: c, configMap: { name: text } }" \
    "- { name: i, image: { reference: \"$image\", pullPolicy: IfNotPresent } }" "- { name: h, hostPath: { path: /layout } }"
}
labelled given 1010 '{ level: "s0:c1,c2" }'
until_ok "a pod with a label runs" lamina wait pod/given --for=ready --timeout 5s
given=$(process sleep 1010)
check "the label is the one that it asks for" test "$(label "$given")" = system_u:system_r:container_t:s0:c1,c2
check "also for whoever looks in" lamina exec given -- grep -q '^system_u:system_r:container_t:s0:c1,c2' /proc/self/attr/current
check "what is its own is its own" lamina exec given -- sh -c 'for d in / /tmp /v /m /dev/shm; do echo x >$d/x && cat $d/x || exit 1; done; rm /bin/yes'
check "what it is given is there" lamina exec given -- sh -c 'grep -qx value /c/key && cat /etc/hosts /etc/resolv.conf >/dev/null && test -x /i/bin/yes && head -c 9 /i/bin/yes && echo said >/dev/termination-log'
check "what is the machine's is not" lamina exec given -- sh -c '! cat /h/secret'
labelled own 1011 '{ type: container_t }'
until_ok "another runs with categories of its own" lamina wait pod/own --for=ready --timeout 5s
own=$(process sleep 1011)
check "which are two" sh -c "tr -d '\\0' </proc/$own/attr/current | grep -Eqx 'system_u:system_r:container_t:s0:c[0-9]+,c[0-9]+'"
check "it sees nothing of the other" lamina exec own -- sh -c 'echo x >/v/x && echo x >/x'
check "of which the machine sees all" grep -qx x "/proc/$given/root/x"
ln=/var/lib/lamina/pods/$(lamina get pods given -o json | sed -n 's/.*"uid": *"\([^"]*\)".*/\1/p' | head -n 1)/volumes/v
pod thief "securityContext: { seLinuxOptions: { level: 's0:c3,c4' } }" "containers:" "- { name: a, $from, command: [sleep, '1012'], volumeMounts: [{ name: v, mountPath: /v }] }" \
  "volumes:" "- { name: v, hostPath: { path: $ln } }"
until_ok "one that is given the other's volume" lamina wait pod/thief --for=ready --timeout 5s
check "reads nothing there" lamina exec thief -- sh -c '! cat /v/x'
pod odd "securityContext: { seLinuxOptions: { type: no_such_t } }" "containers:" "- { name: a, $from, command: [sleep, '1013'] }"
until_ok "a label that is not in the policy is named" sh -c 'lamina describe pod/odd | grep "no_such_t.*does not have"'
check "a pod that asks for none is the machine's" lamina exec web -c a -- cat /h/secret
for name in given own thief odd; do rm /etc/lamina/manifests/$name.yaml; done
until_ok "these are gone" sh -c '! lamina get pods -A -o name | grep -Eq "given|own|thief|odd"'

echo "# a pod's end takes every process along"
many() { [ "$(process sleep 1007 | wc -l)" = "$1" ]; }
pod many "containers:" "- { name: a, $from, command: [sh, -c, 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1007 & done; wait'] }"
until_ok "a pod of many processes runs" many 9
rm /etc/lamina/manifests/many.yaml
until_ok "none is left of it" many 0

echo "# a pod that somebody has frozen ends all the same"
pod frozen "containers:" "- { name: a, $from, command: [sleep, '1009'] }"
until_ok "it runs" sh -c 'lamina get pods frozen -o json | grep -Eq "\"ready\": ?true"'
frozen=$(group "$(process sleep 1009)")
echo 1 >"$frozen/cgroup.freeze"
until_ok "it is frozen" grep -qx 'frozen 1' "$frozen/cgroup.events"
rm /etc/lamina/manifests/frozen.yaml
until_ok "it goes" sh -c '! lamina get pods -A -o name | grep -q frozen'
check "with its cgroup" test ! -e "$frozen"

echo "# the agent dies and comes back"
kill -9 $agent; wait $agent || true
start_agent
until_ok "the adopted pod answers" lamina exec web -c a -- test -e /mark
check "the container kept its process" sh -c "[ \"\$(cut -d ' ' -f 1 /proc/$pid/stat)\" = $pid ]"
check "a new container starts on an adopted layer" lamina run --rm $image -- -c 'echo again'
case $kernel in 6.1.*) check "on the same loop device" sh -c '[ "$(losetup -a | wc -l)" = 1 ]' ;; esac
kill -9 "$pid"
until_ok "a container is started again in an adopted pod" sh -c 'lamina get pods web -o json | grep -Eq "\"restartCount\": ?1"'
until_ok "on its volumes" lamina exec web -c a -- grep -qx 1 /v/in/file

echo "# devices"
disk="$(sed 's/:/ /' /sys/block/vda/dev)"
if lamina run --rm $image -- -c "mknod /tmp/d b $disk && head -c 1 /tmp/d" >/tmp/denied 2>&1; then fail "the disk was read"; fi
check "the disk is denied, not missing" sh -c 'cat /tmp/denied; grep -qi "not permitted" /tmp/denied'
check "what every container has works" lamina run --rm $image -- -c 'head -c 9 /dev/urandom >/dev/null && : </dev/zero'

echo "# memory"
pod oom "restartPolicy: Never" "containers:" \
  "- { name: a, $from, command: [tail, /dev/zero], resources: { limits: { memory: 32Mi } } }"
until_ok "a container over its limit is OOMKilled" sh -c 'lamina get pods oom -o json | grep -q OOMKilled'
check "and ends with 137" sh -c 'lamina get pods oom -o json | grep -Eq "\"exitCode\": ?137"'
pod group "restartPolicy: Never" "containers:" \
  "- { name: a, $from, command: [sh, -c, 'tail /dev/zero; sleep 1002'], resources: { limits: { memory: 32Mi } } }"
until_ok "one whose child is over it ends as a whole" sh -c 'lamina get pods group -o json | grep -q OOMKilled'

echo "# the other driver"
rm /etc/lamina/manifests/*.yaml
until_ok "the pods are gone" sh -c '! lamina get pods -A -o name | grep -q pod'
until_ok "every layer is freed" sh -c '[ -z "$(ls /var/lib/lamina/layers)" ]'
until_ok "no loop device is left" sh -c '! losetup -a | grep .'
stop_agent
start_agent --store-driver directory --memory-throttling-factor 0.9 --eviction-hard 'memory.available<500Mi' --eviction-pressure-transition-period 1s
check "layers are directories when that is asked for" sh -c 'lamina info | grep -Eq "driver +directory$"'
check "a container runs on one" lamina run --rm $image -- -c 'test -x /bin/busybox && rm /bin/yes && ! test -e /bin/yes'

pod slow "containers:" "- { name: a, $from, command: [sleep, '1008'], resources: { requests: { memory: 20Mi }, limits: { memory: 40Mi } } }"
until_ok "a container between request and limit runs" lamina wait pod/slow --for=ready --timeout 5s
check "it is slowed down before it is killed" grep -qx 39845888 "$(group "$(process sleep 1008)")/memory.high"

echo "# the machine runs short of memory"
check "there is enough" sh -c 'cat /proc/meminfo | head -n 3; lamina info | grep -q "MemoryPressure *False"'
pod glutton "restartPolicy: Never" "containers:" \
  "- { name: a, $from, command: [sh, -c, 'dd if=/dev/zero of=/m/all bs=1M count=450; sleep 1014'], volumeMounts: [{ name: m, mountPath: /m }] }" \
  "volumes:" "- { name: m, emptyDir: { medium: Memory } }"
until_ok "who takes most goes" sh -c 'lamina get pods glutton -o json | grep -q "\"reason\": *\"Evicted\""'
check "for memory" sh -c 'lamina get pods glutton -o json | grep -q "low on resource: memory"'
check "the other stays" lamina exec slow -- true
rm /etc/lamina/manifests/glutton.yaml
until_ok "then there is enough again" sh -c 'lamina info | grep -q "MemoryPressure *False"'
rm /etc/lamina/manifests/slow.yaml

echo "# nothing is left"
until_ok "every pod is gone" sh -c '! lamina get pods -A -o name | grep -q pod'
until_ok "every shim is gone" sh -c '! grep -lx lamina-shim /proc/[0-9]*/comm'
until_ok "every layer is freed" sh -c '[ -z "$(ls /var/lib/lamina/layers)" ]'
stop_agent
check "no process is left" sh -c '! grep -l lamina /proc/[0-9]*/comm'
groups_after=$(find /sys/fs/cgroup -mindepth 1 -type d | sort)
check "no cgroup is left" test "$groups_before" = "$groups_after"
check "no mount is left" sh -c "cat /proc/mounts; [ \$(wc -l </proc/mounts) = $mounts_before ]"
check "no loop device is left" sh -c '! losetup -a | grep .'
check "no pod's directory is left" sh -c '! ls /run/lamina/pods /var/lib/lamina/pods 2>/dev/null | grep -v : | grep .'
check "the kernel had nothing to complain of" sh -c '! dmesg | grep -E "BUG:|WARNING:|Oops|general protection|blocked for more than"'
