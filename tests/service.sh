# Runs inside a guest as a service of systemd (see tests/setup/src/guest.rs): the package is installed, and the agent is a
# service as an administrator has it. Every check that fails ends the script with a message.
fail() {
  echo "FAILED: $*"
  journalctl --no-pager --unit lamina --lines 40
  exit 1
}
check() { what=$1; shift; "$@" >/tmp/out 2>&1 || { cat /tmp/out; fail "$what"; }; echo "ok: $what"; }
until_ok() { what=$1; shift; n=0; until "$@" >/tmp/out 2>&1; do n=$((n + 1)); [ $n -lt 300 ] || { cat /tmp/out; fail "$what"; }; sleep 0.2; done; echo "ok: $what"; }
# The agent's process, the pod's, and since when that runs, in ticks.
agent() { systemctl show --value --property MainPID lamina; }
process() { lamina get containers -o json | sed -n 's/^ *"pid": *\([0-9]*\).*/\1/p'; }
# The one process with exactly these arguments.
running() { for p in /proc/[0-9]*; do [ "$(tr '\0' ' ' <"$p/cmdline" 2>/dev/null)" != "$* " ] || echo "${p#/proc/}"; done; }
since() { cut -d ' ' -f 22 "/proc/$1/stat"; }
# The agent has been replaced; it answers, and the pod's process is the one that it was.
replaced() { # WHAT OLD
  check "$1: the service is active" systemctl is-active lamina
  check "$1: another process answers" test "$(agent)" != "$2"
  check "$1: the pod is ready" lamina wait pod/web --for=ready --timeout 60s
  check "$1: its process goes on" test "$(process) $(since "$pid")" = "$pid $start"
}

check "the package is installed" dpkg --install /root/lamina.deb
systemctl daemon-reload
mkdir -p /etc/lamina/manifests
# The pods here need no bridge, and this kernel has none.
echo "network: none" >/etc/lamina/config.yaml
cat >/etc/lamina/manifests/web.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - { name: app, image: "oci:/layout:busybox", imagePullPolicy: IfNotPresent, command: [sleep, "1000"] }
POD

check "it is started by name, and is ready by then" systemctl enable --now lamina
check "systemd was told so" test "$(systemctl show --value --property NotifyAccess lamina)" = main
check "a command is answered at once" lamina info
check "the pod runs" lamina wait pod/web --for=ready --timeout 60s
pid=$(process)
start=$(since "$pid")
[ -n "$pid" ] || fail "the pod has no process"
check "it is in a cgroup of its own, outside the service's" sh -c "! grep -q lamina.service /proc/$pid/cgroup"

old=$(agent)
check "the service is restarted" systemctl restart lamina
replaced restart "$old"

check "the service is stopped" systemctl stop lamina
check "the pod runs without it" test "$(since "$pid")" = "$start"
check "the service is started" systemctl start lamina
replaced start 0

old=$(agent)
kill -9 "$old"
another() { [ "$(agent)" != "$old" ] && [ "$(agent)" != 0 ] && lamina info; }
until_ok "systemd starts another" another
replaced kill "$old"

old=$(agent)
check "the package is installed over itself" dpkg --install /root/lamina.deb
check "the service is restarted after that" systemctl restart lamina
replaced upgrade "$old"

echo "# what needs a kernel with more than most test machines have"
# A pod's manifest: its name, then lines of its container and of its spec; on the host's network unless it says otherwise.
pod() { # NAME CONTAINER [SPEC]
  case ${3:-} in *hostUsers*) network= ;; *) network="hostNetwork: true" ;; esac
  cat >"/etc/lamina/manifests/.$1" <<POD
apiVersion: v1
kind: Pod
metadata: { name: $1 }
spec:
  $network
  terminationGracePeriodSeconds: 0
  ${3:-}
  containers: [{ name: app, image: "oci:/layout:busybox", imagePullPolicy: IfNotPresent, $2 }]
POD
  mv "/etc/lamina/manifests/.$1" "/etc/lamina/manifests/$1.yaml"
}
mkdir -p /srv/share
echo '/srv/share 127.0.0.1(rw,no_subtree_check,no_root_squash)' >/etc/exports
check "a server has an export" systemctl restart nfs-server
share='volumes: [{ name: share, nfs: { server: 127.0.0.1, path: /srv/share } }]'
mounted='volumeMounts: [{ name: share, mountPath: /share }]'
pod writer "$mounted, command: [sh, -c, 'echo from the pod >/share/file; exec sleep 1000']" "$share"
check "a pod mounts it" lamina wait pod/writer --for=ready --timeout 60s
until_ok "what it writes is on the server" grep -qx "from the pod" /srv/share/file
echo "from the server" >/srv/share/file
pod reader "$mounted, command: [sleep, '1000']" "${share/path:/readOnly: true, path:}"
check "another mounts it for reading" lamina wait pod/reader --for=ready --timeout 60s
check "it reads what the server has" lamina exec reader -- grep -qx "from the server" /share/file
check "and writes nothing" lamina exec reader -- sh -c '! echo more >/share/more'
rm /etc/lamina/manifests/{writer,reader}.yaml
check "both go" lamina wait pod/writer pod/reader --for=deleted --timeout 60s
check "nothing is mounted by anybody any more" sh -c '! cat /proc/[0-9]*/mounts 2>/dev/null | grep " nfs4 "'

cat >/etc/apparmor.d/lamina-test <<'PROFILE'
profile lamina-test flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  deny /tmp/denied w,
}
PROFILE
check "a profile is loaded" apparmor_parser --replace /etc/apparmor.d/lamina-test
profile() { echo "securityContext: { appArmorProfile: { type: Localhost, localhostProfile: $1 } }"; }
pod guarded "$(profile lamina-test), command: [sh, -c, 'touch /tmp/allowed && ! touch /tmp/denied && exec sleep 1001']"
check "a pod is under it" lamina wait pod/guarded --for=ready --timeout 60s
guarded() { running sleep 1001 | grep .; }
until_ok "what it denies is denied, and no more" guarded
guarded=$(guarded)
check "it is enforced" grep -qx 'lamina-test (enforce)' "/proc/$guarded/attr/apparmor/current"
check "also for whoever looks in" lamina exec guarded -- sh -c '! touch /tmp/denied'
pod lost "$(profile no-such-profile), command: [sleep, '1000']"
named() { lamina describe pod/lost | grep 'no-such-profile.*is it loaded'; }
until_ok "a profile that is not loaded is named" named
pod default "securityContext: { appArmorProfile: { type: RuntimeDefault }, capabilities: { add: [SYS_ADMIN] } }, command: [sleep, '1003']"
check "the profile by default needs nobody else" lamina wait pod/default --for=ready --timeout 60s
check "it is enforced, too" sh -c "grep -qx 'lamina-default (enforce)' /proc/$(running sleep 1003)/attr/apparmor/current"
check "it lets a program work" lamina exec default -- sh -c 'echo x >/tmp/x && mkdir /tmp/d && mv /tmp/x /tmp/d/ || exit 1; sleep 100 & kill $! && wait; test -e /tmp/d/x'
check "but not mount" lamina exec default -- sh -c '! mount -t tmpfs none /tmp'
pod free "securityContext: { capabilities: { add: [SYS_ADMIN] } }, command: [sleep, '1000']"
check "a pod without a profile runs" lamina wait pod/free --for=ready --timeout 60s
check "and mounts" lamina exec free -- mount -t tmpfs none /tmp
rm /etc/lamina/manifests/{guarded,lost,default,free}.yaml
check "these go, too" lamina wait pod/guarded pod/lost pod/default pod/free --for=deleted --timeout 60s

echo "# what a pod with users of its own writes is counted by the file system, names or not"
# Writes a file that has no name any more, so that nobody can walk to it; keeps it open.
hidden() { # DIRECTORY MEGABYTES
  echo "command: [sh, -c, 'exec 3>$1/file; rm $1/file; dd if=/dev/zero bs=1M count=$2 >&3; exec sleep 1002']"
}
scratch='volumeMounts: [{ name: scratch, mountPath: /scratch }]'
own=$(printf '%s\n  ' "hostUsers: false" "restartPolicy: Never" "volumes: [{ name: scratch, emptyDir: { sizeLimit: 4Mi } }]")
pod modest "$scratch, $(hidden /scratch 2)" "$own"
pod volume "$scratch, $(hidden /scratch 6)" "$own"
pod layer "resources: { limits: { ephemeral-storage: 4Mi } }, $(hidden /tmp 6)" "$own"
evicted() { lamina get pod "$1" -o json | tr -d '\n' | grep "\"reason\": *\"Evicted\"" && lamina get pod "$1" -o json | grep "$2"; }
until_ok "a pod whose volume has too much is evicted" evicted volume 'EmptyDir volume \\"scratch\\" exceeds the limit \\"4Mi\\"'
until_ok "so is one whose container has" evicted layer 'ephemeral'
check "one with less runs" lamina wait pod/modest --for=ready --timeout 60s
uid=$(lamina get pod modest -o json | sed -n 's/^ *"uid": *"\(.*\)".*/\1/p' | head -n 1)
project() { lsattr -pd "/var/lib/lamina/pods/$1/volumes/scratch" | tee /dev/stderr | grep -qE '^ *1[23][0-9]{8} .*P'; }
check "its volume has a project of its own" project "$uid"
rm /etc/lamina/manifests/{modest,volume,layer}.yaml
check "they go" lamina wait pod/modest pod/volume pod/layer --for=deleted --timeout 60s

rm /etc/lamina/manifests/web.yaml
until_ok "the pod goes with its manifest" test ! -e "/proc/$pid"
check "the service is ended for good" systemctl disable --now lamina
check "no cgroup is left" sh -c '! ls -d /sys/fs/cgroup/lamina-* 2>/dev/null'
check "the package is removed" dpkg --purge lamina
check "systemd has no unit that failed" sh -c 'systemctl --failed --no-legend | { ! grep .; }'
