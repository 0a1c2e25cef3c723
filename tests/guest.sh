# Runs inside a guest with an older kernel (see tests/setup/src/guest.rs): busybox sh, cgroup v2, an ext4 disk.
# Every check that fails ends the script with a message.
fail() { echo "FAILED: $*"; tail -n 40 /var/log/agent.log; exit 1; }
check() { what=$1; shift; "$@" >/tmp/out 2>&1 || { cat /tmp/out; fail "$what"; }; echo "ok: $what"; }
until_ok() { what=$1; shift; n=0; until "$@" >/tmp/out 2>&1; do n=$((n+1)); [ $n -lt 300 ] || { cat /tmp/out; fail "$what"; }; sleep 0.1; done; echo "ok: $what"; }
image=oci:/layout:busybox
mkdir -p /etc/lamina/manifests

start_agent() { lamina agent --log-level debug >>/var/log/agent.log 2>&1 & agent=$!; }
start_agent
until_ok "the agent is ready" wget -q -O /dev/null http://127.0.0.1:9640/readyz
kernel=$(uname -r)
lamina info >/tmp/info || fail "lamina info"
case $kernel in
  6.1.*) check "layers go through a loop device on $kernel" grep -qi loop /tmp/info ;;
  *) check "layers are mounted from files on $kernel" grep -qi 'attached' /tmp/info ;;
esac

cat >/etc/lamina/manifests/web.yaml <<END
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - { name: a, image: "$image", imagePullPolicy: IfNotPresent, command: [sleep, "1001"], resources: { limits: { cpu: 250m, memory: 64Mi } } }
  - { name: b, image: "$image", imagePullPolicy: IfNotPresent, command: [sleep, "1000"] }
END
until_ok "a pod of two containers runs" lamina wait pod/web --for=ready --timeout 5s
check "the file system is the image's" lamina exec web -c a -- /bin/busybox true
check "writes are possible" lamina exec web -c a -- sh -c 'echo a >/mark; rm /bin/yes'
check "writes are private" lamina exec web -c b -- sh -c '! test -e /mark && test -e /bin/yes'
check "nothing of it is mounted on the host" sh -c '! grep -E "overlay|erofs" /proc/mounts'

pid=$(pgrep -f "sleep 1001")
cgroup=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)
check "the memory limit is in cgroup v2" grep -qx 67108864 $cgroup/memory.max
check "the cpu limit is in cgroup v2" grep -qx '25000 100000' $cgroup/cpu.max

kill -9 $agent; wait $agent || true
start_agent
until_ok "the agent is back" wget -q -O /dev/null http://127.0.0.1:9640/readyz
check "the container kept its process" test -d /proc/$pid
check "the adopted pod answers" lamina exec web -c a -- test -e /mark
check "a new container starts on an adopted layer" lamina run --rm $image -- echo again

if lamina run --rm $image -- sh -c 'mknod /tmp/d b 254 0 && head -c 1 /tmp/d' >/tmp/out 2>&1; then fail "the disk was read"; fi
check "the device was denied, not missing" grep -qi 'not permitted' /tmp/out

cat >/etc/lamina/manifests/oom.yaml <<END
apiVersion: v1
kind: Pod
metadata: { name: oom }
spec:
  restartPolicy: Never
  containers:
  - { name: a, image: "$image", imagePullPolicy: IfNotPresent, command: [tail, /dev/zero], resources: { limits: { memory: 32Mi } } }
END
until_ok "a container over its limit is OOMKilled" sh -c 'lamina get pods oom -o json | grep -q OOMKilled'
until_ok "and ends with 137" sh -c 'lamina get pods oom -o json | grep -Eq "\"exitCode\": ?137"'

rm /etc/lamina/manifests/*.yaml
until_ok "the pods are gone" sh -c '! lamina get pods -A -o name | grep -q pod'
until_ok "every layer is freed" sh -c '[ -z "$(ls /var/lib/lamina/layers)" ]'
until_ok "every shim is gone" sh -c '! pgrep -f "lamina shim"'
kill $agent; wait $agent || fail "the agent ended with $?"
check "no cgroup is left" sh -c '! ls -d /sys/fs/cgroup/lamina-*'
check "no loop device is left" sh -c '! losetup -a | grep -q lamina'
