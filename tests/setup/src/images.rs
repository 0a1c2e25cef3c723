//! Real images without a container tool: Debian packages unpacked into layers, written as an OCI image layout.
//!
//! ```text
//! game:1 ┐        ┌ game 1 ┐
//! game:2 ┴ share ─┤ runtime│  python3 from Debian
//! base:1 ─────────┴ base   ┘  libc, shell, coreutils from Debian
//! db:1, shop:1: a few lines of Python each, on the same two layers
//! ```

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, cache, say, shell};

/// One layer: the digest and size of its blob, and its diffID.
#[derive(Clone)]
pub struct Layer {
    digest: String,
    size: u64,
    diff_id: String,
}

/// What an image is called, and what its configuration says.
pub struct Named<'a> {
    /// Its name in the layout.
    pub name: &'a str,
    /// Its entry point, as JSON.
    pub entrypoint: &'a str,
    /// Its environment.
    pub env: &'a [&'a str],
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

/// A database of one table: adds one for whoever asks, and keeps the number on its volume.
const DB: &str = r#"import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
os.makedirs("/data", exist_ok=True)
path = "/data/visits"
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("", 5432))
server.listen(16)
print("database is ready", flush=True)
while True:
    client, _ = server.accept()
    visits = int(open(path).read()) + 1 if os.path.exists(path) else 1
    with open(path, "w") as file:
        file.write(str(visits))
    client.sendall(str(visits).encode())
    client.close()
"#;

/// An app that knows its database by a name alone.
const SHOP: &str = r#"import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
host = os.environ["DB_HOST"]
while True:
    try:
        with socket.create_connection((host, 5432), timeout=2) as db:
            print(f"visit {db.recv(64).decode()}, counted by {host}", flush=True)
        open("/tmp/ready", "w").close()
    except OSError as error:
        print(f"waiting for {host}: {error}", flush=True)
    time.sleep(0.5)
"#;

/// Writes base, runtime, game 1 and game 2, and the two tiers of a shop into the layout `dir` (`base-1` and so on: a layout's names have no colon);
/// what is there already is kept.
pub fn layout(dir: &Path) -> Result<()> {
    build(dir, "making the demo's images from Debian packages", |work, dir| {
        let base_packages = base_packages()?;
        let runtime_packages: Vec<String> =
            closure(&["python3-minimal"])?.into_iter().filter(|p| !base_packages.contains(p)).collect();
        let base = base(work, dir)?;
        let runtime = layer(dir, &unpack(work, "runtime", &runtime_packages)?)?;
        fn named<'a>(name: &'a str, entrypoint: &'a str) -> Named<'a> {
            Named { name, entrypoint, env: &["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1"] }
        }
        let mut index = vec![
            image(dir, &named("base-1", r#"["/bin/sh"]"#), std::slice::from_ref(&base))?,
            image(dir, &named("runtime-1", r#"["/usr/bin/python3"]"#), &[base.clone(), runtime.clone()])?,
        ];
        for version in ["1", "2"] {
            let root = work.join(format!("game{version}"));
            make_dir(&root.join("srv/game"))?;
            write(&root.join("srv/game/server.py"), GAME)?;
            write(&root.join("srv/game/version"), &format!("{version}\n"))?;
            let game = layer(dir, &root)?;
            let stack = [base.clone(), runtime.clone(), game];
            let name = format!("game-{version}");
            index.push(image(dir, &named(&name, r#"["/usr/bin/python3","/srv/game/server.py"]"#), &stack)?);
        }
        for (name, program) in [("db", DB), ("shop", SHOP)] {
            let root = work.join(name);
            make_dir(&root.join("srv"))?;
            make_dir(&root.join("tmp"))?;
            write(&root.join("srv/main.py"), program)?;
            let stack = [base.clone(), runtime.clone(), layer(dir, &root)?];
            index.push(image(dir, &named(&format!("{name}-1"), r#"["/usr/bin/python3","/srv/main.py"]"#), &stack)?);
        }
        Ok(index)
    })
}

/// Makes the layout `dir` of the images that `make` writes and describes; says `what` first. Nothing is done when it is
/// there, and nothing is left of one that fails half-way.
pub fn build(dir: &Path, what: &str, make: impl FnOnce(&Path, &Path) -> Result<Vec<String>>) -> Result<()> {
    if dir.join("complete").exists() {
        return Ok(());
    }
    say(&format!("{what} (once; kept in the cache)"));
    let work = dir.with_extension("work");
    let _ = fs::remove_dir_all(&work);
    let _ = fs::remove_dir_all(dir);
    make_dir(&work)?;
    make_dir(&dir.join("blobs/sha256"))?;
    write(&dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = make(&work, dir)?.join(",");
    let media = "application/vnd.oci.image.index.v1+json";
    write(&dir.join("index.json"), &format!(r#"{{"schemaVersion":2,"mediaType":"{media}","manifests":[{index}]}}"#))?;
    write(&dir.join("complete"), "")?;
    fs::remove_dir_all(&work).map_err(|e| format!("cannot remove {}: {e}", work.display()))
}

/// The packages of the base: libc, a shell, coreutils.
pub fn base_packages() -> Result<Vec<String>> {
    closure(&["base-files", "dash", "coreutils", "libc-bin"])
}

/// The base as a layer.
pub fn base(work: &Path, dir: &Path) -> Result<Layer> {
    layer(dir, &unpack(work, "base", &base_packages()?)?)
}

/// A layout with one image `name` of one layer, the tree `root`, whose entry point is `entrypoint` (JSON).
pub fn single(dir: &Path, name: &str, root: &Path, entrypoint: &str) -> Result<()> {
    make_dir(&dir.join("blobs/sha256"))?;
    write(&dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let layers = [layer(dir, root)?];
    let env = &["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    let manifest = image(dir, &Named { name, entrypoint, env }, &layers)?;
    let media = "application/vnd.oci.image.index.v1+json";
    write(&dir.join("index.json"), &format!(r#"{{"schemaVersion":2,"mediaType":"{media}","manifests":[{manifest}]}}"#))
}

/// A package and everything it needs, by name.
pub fn closure(packages: &[&str]) -> Result<Vec<String>> {
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
pub fn unpack(work: &Path, name: &str, packages: &[String]) -> Result<PathBuf> {
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
pub fn layer(layout: &Path, root: &Path) -> Result<Layer> {
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
pub fn image(layout: &Path, named: &Named<'_>, layers: &[Layer]) -> Result<String> {
    let join = |f: &dyn Fn(&Layer) -> String| layers.iter().map(f).collect::<Vec<_>>().join(",");
    let diff_ids = join(&|l| format!("\"{}\"", l.diff_id));
    let env = named.env.iter().map(|e| format!("\"{e}\"")).collect::<Vec<_>>().join(",");
    let (name, command) = (named.name, named.entrypoint);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":[{env}],"Entrypoint":{command}}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
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
