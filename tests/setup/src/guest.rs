//! Other machines: Debian's cloud kernels 6.1, 6.12 and the newest in QEMU under software emulation, with cgroup v2 and an ext4
//! disk, running one shell script as a test.
//!
//! ```text
//! initramfs: busybox, the modules ──switch_root──▶ ext4 disk: busybox, lamina, an OCI layout, the script
//!                                             or ▶ ext4 disk: Debian with systemd, the package, a layout, the script
//! ```

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, build, cache, images, packages, run as run_command, say, shell};

/// How long a guest may take, emulation on a busy machine included.
const LIMIT: Duration = Duration::from_secs(600);
/// The version of what is kept of a kernel's package.
const PARTS: u32 = 2;
/// A function of the shell that prints where this machine gets its Debian packages from.
const MIRROR: &str = r#"
    mirror() {
        apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)' 'Created-By: Packages' |
            awk '$2 == "Debian" && $3 == "Debian" && $4 == "main" && !n++ {print $1}'
    }
"#;
/// What the Debian with systemd has beside it: programs that the script talks to.
const PROGRAMS: &str = "systemd-sysv,kmod,apparmor,nfs-kernel-server";
/// What the script prints as its last line, followed by its exit status.
const VERDICT: &str = "guest script ended with ";

/// Boots `kernel` (`6.1`, `6.12` or `newest`), with SELinux to be had, and runs `script` in it, with the policy beside it
/// (`script` with the ending `cil`) as `/policy`; fails unless the script exits 0.
pub fn run(kernel: &str, script: &Path) -> Result<()> {
    packages::install(&["guest"])?;
    let lamina = match std::env::var_os("LAMINA_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build::release()?,
    };
    let parts = kernel_parts(kernel)?;
    let work = Work::create(kernel)?;
    let disk = disk(&work.0, &lamina, script)?;
    let initramfs = initramfs(&work.0, &parts)?;
    boot(&parts.join("vmlinuz"), &initramfs, &disk, "security=selinux")
}

/// Boots Debian with systemd and its newest kernel, on a file system that counts projects, and runs `script` there as a
/// service, with `package` as `/root/lamina.deb`; fails unless the script exits 0.
pub fn service(package: &Path, script: &Path) -> Result<()> {
    packages::install(&["guest"])?;
    let (parts, debian) = (kernel_parts("newest")?, debian()?);
    let work = Work::create("systemd")?;
    let (root, disk) = (work.0.join("root"), work.0.join("disk.ext4"));
    let prepare = r#"
        debian=$1 root=$2 package=$3 script=$4 modules=$5
        cp -a "$debian" "$root"; cp -r "$modules" "$root/usr/lib/"
        cp "$package" "$root/root/lamina.deb"; cp "$script" "$root/root/script"
        ln -s lib/systemd/systemd "$root/init"; echo guest >"$root/etc/hostname"
        ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
        ln -s ../test.service "$root/etc/systemd/system/multi-user.target.wants/test.service"
    "#;
    let modules = parts.join("lib/modules");
    shell(
        prepare,
        &[debian.as_os_str(), root.as_os_str(), package.as_os_str(), script.as_os_str(), modules.as_os_str()],
    )?;
    let unit = format!(
        "[Unit]\nDescription=The test\n[Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/console\n\
         ExecStart=/bin/bash -c 'bash -eu /root/script; echo \"{VERDICT}$?\"; systemctl poweroff --force --force'\n"
    );
    images::write(&root.join("etc/systemd/system/test.service"), &unit)?;
    busybox(&work.0, &root.join("layout"))?;
    let make = r#"truncate -s 1G "$2"; mkfs.ext4 -q -F -O quota,project -E quotatype=prjquota -d "$1" "$2""#;
    shell(make, &[root.as_os_str(), disk.as_os_str()])?;
    boot(&parts.join("vmlinuz"), &initramfs(&work.0, &parts)?, &disk, "security=apparmor")
}

/// A small Debian with systemd, made once; gives its directory.
fn debian() -> Result<PathBuf> {
    let dir = cache()?.join("guest/debian");
    if dir.exists() {
        return Ok(dir);
    }
    say("making a small Debian with systemd (once; kept in the cache)");
    let script = r#"
        dir=$1 programs=$2; rm -rf "$dir.new"; mkdir -p "$dir.new"
        mirror=$(mirror)
        debootstrap --variant=minbase --include="$programs" bookworm "$dir.new" "$mirror" >&2
        rm -rf "$dir.new"/var/cache/apt/archives/*.deb "$dir.new"/var/lib/apt/lists/*
        mv "$dir.new" "$dir"
    "#;
    shell(&format!("{MIRROR}{script}"), &[dir.as_os_str(), OsStr::new(PROGRAMS)])?;
    Ok(dir)
}

/// A temporary directory that goes with its owner.
struct Work(PathBuf);

impl Work {
    fn create(kernel: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("lamina-guest-{kernel}-{}", std::process::id()));
        images::make_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // It lies in the temporary directory: at worst it stays until that is cleaned.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Downloads and unpacks Debian's kernel package once; gives the directory with `vmlinuz`, `modules/` for the initramfs
/// and `lib/modules/` with what a whole Debian loads by itself.
fn kernel_parts(kernel: &str) -> Result<PathBuf> {
    let suite = match kernel {
        "6.1" => "bookworm",
        "6.12" => "trixie",
        "newest" => "trixie-backports",
        _ => return Err(format!("no kernel {kernel}; there are 6.1, 6.12 and newest")),
    };
    let dir = cache()?.join("guest").join(format!("{kernel}-{PARTS}"));
    if dir.join("vmlinuz").exists() {
        return Ok(dir);
    }
    say(&format!("downloading Debian's kernel {kernel} (once; kept in the cache)"));
    let script = r#"
        dir=$1 suite=$2
        rm -rf "$dir"; mkdir -p "$dir"/apt/lists/partial "$dir"/apt/archives/partial; cd "$dir"
        mirror=$(mirror)
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >apt/sources.list
        o=(-q -o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
           -o Dir::State::lists="$dir/apt/lists" -o Dir::Cache::archives="$dir/apt/archives"
           -o Dir::Cache::pkgcache="$dir/apt/p.bin" -o Dir::Cache::srcpkgcache="$dir/apt/s.bin"
           -o APT::Sandbox::User=root)
        apt-get "${o[@]}" update >/dev/null
        depends() { apt-cache "${o[@]}" depends "$1" | sed -n 's/^ *Depends: *//p' | grep -E "^linux-($2)-[0-9]"; }
        p=$(depends linux-image-cloud-amd64 image)
        # Newer ones are in several packages.
        for p in $p $(depends "$p" 'base|binary|modules' || true); do
            apt-get "${o[@]}" download "$p" >/dev/null
            dpkg-deb -x "$p"_*.deb root
        done
        [ -d root/lib/modules ] || ln -s usr/lib root/lib
        version=$(ls root/lib/modules)
        find root/lib/modules/ -name '*.ko.xz' -exec xz -d {} +
        depmod -b root "$version"
        mkdir modules; : >modules/order
        for m in virtio_pci virtio_blk loop erofs overlay quota_v2; do
            modprobe -d "$dir/root" -S "$version" --show-depends "$m" 2>/dev/null | awk '/^insmod/ {print $2}' || true
        done | awk '!seen[$0]++' | while read -r ko; do
            cp "$ko" modules/; basename "$ko" >>modules/order
        done
        for m in nfsd nfsv4; do
            modprobe -d "$dir/root" -S "$version" --show-depends "$m" | awk '/^insmod/ {print $2}'
        done | while read -r ko; do
            to=lib/modules/${ko#"$dir"/root/lib/modules/}; mkdir -p "${to%/*}"; cp "$ko" "$to"
        done
        cp root/lib/modules/"$version"/modules.{builtin,builtin.modinfo,order} "lib/modules/$version/"
        depmod -b . "$version"
        cp "$(find root/ -name 'vmlinuz*' -type f | head -n 1)" vmlinuz.new
        rm -rf root apt ./*.deb
        mv vmlinuz.new vmlinuz
    "#;
    shell(&format!("{MIRROR}{script}"), &[dir.as_os_str(), OsStr::new(suite)])?;
    Ok(dir)
}

/// An ext4 image with busybox, lamina, a small OCI layout, the script and its policy, filled without mounting it.
fn disk(work: &Path, lamina: &Path, script: &Path) -> Result<PathBuf> {
    let (root, disk) = (work.join("root"), work.join("disk.ext4"));
    let prepare = r#"
        root=$1 lamina=$2 script=$3
        mkdir -p "$root"/{bin,proc,sys,dev,run,tmp,mnt,etc,var/lib,var/log}
        cp /bin/busybox "$root/bin/busybox"
        for a in $(/bin/busybox --list | grep -vx busybox); do ln -s busybox "$root/bin/$a"; done
        cp "$lamina" "$root/bin/lamina"
        cp "$script" "$root/script"
        {
            cat "${script%.sh}.cil"; seq -f '(category c%.0f)' 0 1023
            echo "(categoryorder ($(seq -f c%.0f -s ' ' 0 1023)))"
        } >"$root.cil"
        secilc -c 30 -o "$root/policy" -f /dev/null "$root.cil"
    "#;
    shell(prepare, &[root.as_os_str(), lamina.as_os_str(), script.as_os_str()])?;
    busybox(work, &root.join("layout"))?;
    let init = format!(
        "#!/bin/sh\nexport PATH=/bin\nmount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp\n\
         mount -t cgroup2 cgroup /sys/fs/cgroup; ip link set lo up; hostname guest\n\
         sh -eu /script; echo \"{VERDICT}$?\"\npoweroff -f\n"
    );
    images::write(&root.join("init"), &init)?;
    shell(
        "chmod 755 \"$1/init\"; truncate -s 512M \"$2\"; mkfs.ext4 -q -F -d \"$1\" \"$2\"",
        &[root.as_os_str(), disk.as_os_str()],
    )?;
    Ok(disk)
}

/// An OCI layout with an image of busybox alone, as `busybox`.
fn busybox(work: &Path, layout: &Path) -> Result<()> {
    let image = work.join("image");
    let prepare = r#"
        image=$1; mkdir -p "$image"/{bin,etc,tmp,root} "$2"
        cp /bin/busybox "$image/bin/busybox"
        for a in $(/bin/busybox --list | grep -vx busybox); do ln -s busybox "$image/bin/$a"; done
        printf 'root:x:0:0:root:/root:/bin/sh\n' >"$image/etc/passwd"
        printf 'root:x:0:\n' >"$image/etc/group"
    "#;
    shell(prepare, &[image.as_os_str(), layout.as_os_str()])?;
    images::single(layout, "busybox", &image, r#"["/bin/sh"]"#)
}

/// Loads the modules and hands over to the disk.
fn initramfs(work: &Path, parts: &Path) -> Result<PathBuf> {
    let out = work.join("initramfs.cpio");
    let init = "#!/bin/busybox sh\n/bin/busybox mkdir -p /dev /disk; /bin/busybox mount -t devtmpfs dev /dev\n\
                while read -r m; do /bin/busybox insmod \"/modules/$m\"; done </modules/order\n\
                /bin/busybox mount -t ext4 /dev/vda /disk || { echo no disk; /bin/busybox poweroff -f; }\n\
                /bin/busybox umount /dev\nexec /bin/busybox switch_root /disk /init\n";
    let tree = work.join("initramfs");
    images::make_dir(&tree.join("bin"))?;
    images::write(&tree.join("init"), init)?;
    let pack = r#"
        cp /bin/busybox "$1/bin/busybox"; cp -r "$2/modules" "$1/modules"; chmod 755 "$1/init"
        cd "$1"; find . | cpio --quiet -o -H newc >"$3"
    "#;
    shell(pack, &[tree.as_os_str(), parts.as_os_str(), out.as_os_str()])?;
    Ok(out)
}

/// Runs the guest; its console goes to standard error, and the verdict on it decides.
fn boot(kernel: &Path, initramfs: &Path, disk: &Path, security: &str) -> Result<()> {
    let start = Instant::now();
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-M", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot"])
        .args(["-nic", "none", "-append", &format!("console=ttyS0 quiet panic=-1 mitigations=off {security}")])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run qemu-system-x86_64: {e}"))?;
    let console = guest.stdout.take().ok_or("the guest has no console")?;
    let id = guest.id();
    let watchdog = std::thread::spawn(move || {
        // Ends with the process that it watches; `park_timeout` is the whole of its waiting.
        std::thread::park_timeout(LIMIT);
        if start.elapsed() >= LIMIT {
            let _ = run_command(Command::new("kill").args(["-9", &id.to_string()]));
        }
    });
    let mut verdict = None;
    for line in BufReader::new(console).split(b'\n') {
        let line = line.map_err(|e| format!("reading the guest's console: {e}"))?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("guest: {}", line.trim_end());
        if let Some((_, status)) = line.split_once(VERDICT) {
            verdict = Some(status.trim().to_owned());
        }
    }
    let ended = guest.wait().map_err(|e| format!("waiting for the guest: {e}"))?;
    watchdog.thread().unpark();
    match verdict.as_deref() {
        Some("0") => Ok(()),
        Some(status) => Err(format!("the guest's script ended with {status}")),
        None => Err(format!("the guest ended with {ended} after {:?} and gave no verdict", start.elapsed())),
    }
}
