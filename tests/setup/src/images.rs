//! Real images without a container tool: Debian packages unpacked into layers, written as an OCI image layout.
//!
//! ```text
//! game:1 ┐        ┌ game 1 ┐
//! game:2 ┴ share ─┤ runtime│  python3 from Debian
//! base:1 ─────────┴ base   ┘  libc, shell, coreutils from Debian
//! ```

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, cache, say, shell};

/// One layer: the digest and size of its blob, and its diffID.
#[derive(Clone)]
struct Layer {
    digest: String,
    size: u64,
    diff_id: String,
}

/// The game server, a few lines of Python; the version is all that differs.
const GAME: &str = r#"import os, signal, sys, time
VERSION = open("/srv/game/version").read().strip()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"game server {VERSION} on {os.uname().nodename}", flush=True)
tick = 0
while True:
    tick += 1
    if tick % 60 == 0:
        print(f"tick {tick}", flush=True)
    time.sleep(1)
"#;

/// Writes base, runtime, game 1 and game 2 into the layout `dir` (`base-1` and so on: a layout's names have no colon);
/// what is there already is kept.
pub fn layout(dir: &Path) -> Result<()> {
    if dir.join("complete").exists() {
        return Ok(());
    }
    say("making the demo's images from Debian packages (once; kept in the cache)");
    let work = dir.with_extension("work");
    let _ = fs::remove_dir_all(&work);
    let _ = fs::remove_dir_all(dir);
    make_dir(&work)?;
    make_dir(&dir.join("blobs/sha256"))?;
    write(&dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;

    let base_packages = closure(&["base-files", "dash", "coreutils", "libc-bin"])?;
    let runtime_packages: Vec<String> =
        closure(&["python3-minimal"])?.into_iter().filter(|p| !base_packages.contains(p)).collect();
    let base = layer(dir, &unpack(&work, "base", &base_packages)?)?;
    let runtime = layer(dir, &unpack(&work, "runtime", &runtime_packages)?)?;
    let mut index = vec![
        image(dir, "base-1", std::slice::from_ref(&base), r#"["/bin/sh"]"#)?,
        image(dir, "runtime-1", &[base.clone(), runtime.clone()], r#"["/usr/bin/python3"]"#)?,
    ];
    for version in ["1", "2"] {
        let root = work.join(format!("game{version}"));
        make_dir(&root.join("srv/game"))?;
        write(&root.join("srv/game/server.py"), GAME)?;
        write(&root.join("srv/game/version"), &format!("{version}\n"))?;
        let game = layer(dir, &root)?;
        let stack = [base.clone(), runtime.clone(), game];
        index.push(image(dir, &format!("game-{version}"), &stack, r#"["/usr/bin/python3","/srv/game/server.py"]"#)?);
    }
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        index.join(",")
    );
    write(&dir.join("index.json"), &index)?;
    write(&dir.join("complete"), "")?;
    fs::remove_dir_all(&work).map_err(|e| format!("cannot remove {}: {e}", work.display()))
}

/// A layout with one image `name` of one layer, the tree `root`, whose entry point is `entrypoint` (JSON).
pub fn single(dir: &Path, name: &str, root: &Path, entrypoint: &str) -> Result<()> {
    make_dir(&dir.join("blobs/sha256"))?;
    write(&dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let layers = [layer(dir, root)?];
    let manifest = image(dir, name, &layers, entrypoint)?;
    let media = "application/vnd.oci.image.index.v1+json";
    write(&dir.join("index.json"), &format!(r#"{{"schemaVersion":2,"mediaType":"{media}","manifests":[{manifest}]}}"#))
}

/// A package and everything it needs, by name.
fn closure(packages: &[&str]) -> Result<Vec<String>> {
    let script = "apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
                  --no-enhances \"$@\" | grep -E '^[a-z0-9]' | sort -u";
    let args: Vec<&OsStr> = packages.iter().map(OsStr::new).collect();
    let names = shell(script, &args)?;
    // Only tools of installation, not of what runs in the image.
    let unwanted = ["debconf", "dpkg", "debianutils", "perl", "install-info", "debconf-2.0", "cdebconf"];
    let wanted = |p: &&str| !unwanted.iter().any(|u| p == u || p.starts_with("perl")) && !p.contains(':');
    Ok(names.lines().filter(wanted).map(str::to_owned).collect())
}

/// Downloads packages (into the cache) and unpacks them into a fresh tree with the merged `/usr` of Debian.
fn unpack(work: &Path, name: &str, packages: &[String]) -> Result<PathBuf> {
    let (debs, root) = (cache()?.join("debs"), work.join(name));
    make_dir(&debs)?;
    make_dir(&root)?;
    let script = r#"
        debs=$1 root=$2; shift 2
        cd "$debs"
        mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
        for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
        # Names that only other packages provide have no file of their own.
        mapfile -t files < <(apt-cache show --no-all-versions "$@" 2>/dev/null | sed -n 's/^Filename: //p' | sort -u)
        [ ${#files[@]} -gt 0 ] || { echo "apt knows none of: $*" >&2; exit 1; }
        missing=()
        for f in "${files[@]}"; do
            f=$(basename "$f")
            # A colon in a version is %3a in the name of the downloaded file.
            compgen -G "${f%%_*}_*.deb" >/dev/null || missing+=("${f%%_*}")
        done
        [ ${#missing[@]} -eq 0 ] || apt-get -q -o APT::Sandbox::User=root download "${missing[@]}" >/dev/null
        for f in "${files[@]}"; do
            f=$(basename "$f")
            deb=$(ls -t "${f%%_*}"_*.deb | head -n 1)
            dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root"
        done
        rm -rf "$root"/usr/share/{doc,man,locale,info,lintian}
        if [ "$(basename "$root")" != base ]; then
            for d in bin sbin lib lib64; do rm "$root/$d"; done
        else
            [ -e "$root/usr/bin/sh" ] || ln -s dash "$root/usr/bin/sh"
            printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
            printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
        fi
        for python in "$root"/usr/bin/python3.*; do
            [ -e "$python" ] && ln -sf "$(basename "$python")" "$root/usr/bin/python3"
        done
        true
    "#;
    let mut args: Vec<&OsStr> = vec![debs.as_os_str(), root.as_os_str()];
    args.extend(packages.iter().map(OsStr::new));
    shell(script, &args)?;
    Ok(root)
}

/// Packs a tree as one gzip layer; equal trees give equal bytes.
fn layer(layout: &Path, root: &Path) -> Result<Layer> {
    let script = r#"
        layout=$1 root=$2
        tar -C "$root" --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -cf "$root.tar" .
        diff=$(sha256sum <"$root.tar" | cut -d' ' -f1)
        gzip -n -6 "$root.tar"
        blob=$(sha256sum <"$root.tar.gz" | cut -d' ' -f1)
        mv "$root.tar.gz" "$layout/blobs/sha256/$blob"
        echo "$diff $blob $(stat -c %s "$layout/blobs/sha256/$blob")"
    "#;
    let told = shell(script, &[layout.as_os_str(), root.as_os_str()])?;
    match told.split_whitespace().collect::<Vec<_>>().as_slice() {
        [diff, blob, size] => Ok(Layer {
            digest: format!("sha256:{blob}"),
            size: size.parse().map_err(|e| format!("size of a layer: {e}"))?,
            diff_id: format!("sha256:{diff}"),
        }),
        _ => Err(format!("packing {} told {told:?}", root.display())),
    }
}

/// Writes config and manifest of an image; gives its descriptor for the index.
fn image(layout: &Path, name: &str, layers: &[Layer], command: &str) -> Result<String> {
    let join = |f: &dyn Fn(&Layer) -> String| layers.iter().map(f).collect::<Vec<_>>().join(",");
    let diff_ids = join(&|l| format!("\"{}\"", l.diff_id));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin","PYTHONDONTWRITEBYTECODE=1"],"Entrypoint":{command}}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
    );
    let (config_digest, config_size) = blob(layout, &config)?;
    let stack = join(&|l| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}}"#,
            l.digest, l.size
        )
    });
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{config_size}}},"layers":[{stack}]}}"#
    );
    let (digest, size) = blob(layout, &manifest)?;
    Ok(format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#
    ))
}

/// Stores a document under its digest.
fn blob(layout: &Path, text: &str) -> Result<(String, usize)> {
    let tmp = layout.join("blobs/new");
    write(&tmp, text)?;
    let script = "d=$(sha256sum <\"$1\" | cut -d' ' -f1); mv \"$1\" \"$(dirname \"$1\")/sha256/$d\"; echo \"$d\"";
    let hex = shell(script, &[tmp.as_os_str()])?;
    Ok((format!("sha256:{}", hex.trim()), text.len()))
}

/// Makes a directory and its parents.
pub fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
