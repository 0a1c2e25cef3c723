//! Images of real programs from Debian packages, for the tests and the demo's second act: each is its program and the
//! libraries that it needs, on the base that the demo's images have.
//!
//! ```text
//! shop ─ python3, psycopg2 ┐
//! postgres ────────────────┤
//! redis ───────────────────┼─ base
//! nginx ───────────────────┤
//! prometheus ──────────────┘
//! ```

use std::ffi::OsStr;
use std::path::Path;

use crate::images::{self, Layer, Named};
use crate::{Result, say, shell};

/// A shop that counts its visits in a database, which it finds by name.
const SHOP: &str = include_str!("../apps/shop.py");
/// Makes a database where there is none, then becomes its server.
const POSTGRES: &str = include_str!("../apps/postgres.sh");

/// Writes all images into the layout `dir`; what is there already is kept.
pub fn layout(dir: &Path) -> Result<()> {
    images::build(dir, "making images of PostgreSQL, Redis, nginx and Prometheus from Debian packages", |work, dir| {
        let base_packages = images::base_packages()?;
        let base = images::base(work, dir)?;
        let without_base = |packages: Vec<String>| -> Vec<String> {
            packages.into_iter().filter(|p| !base_packages.contains(p)).collect()
        };
        let mut index = Vec::new();
        let mut add =
            |name: &str, packages: Vec<String>, files: &[(&str, &str)], entry: &str, env: &[&str]| -> Result<()> {
                say(&format!("image {name}"));
                let root = images::unpack(work, name, &without_base(packages))?;
                for (path, text) in files {
                    let path = root.join(path);
                    if let Some(parent) = path.parent() {
                        images::make_dir(parent)?;
                    }
                    images::write(&path, text)?;
                }
                let own = images::layer(dir, &root)?;
                let layers: Vec<Layer> = vec![base.clone(), own];
                index.push(images::image(dir, &Named { name, entrypoint: entry, env }, &layers)?);
                Ok(())
            };
        let server = newest_postgres()?;
        let client = server.replace("postgresql-", "postgresql-client-");
        let bin = format!("PATH=/usr/lib/postgresql/{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", version(&server));
        let users = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999:postgres:/var/lib/postgresql:/bin/sh\n\
                     nobody:x:65534:65534:nobody:/:/bin/false\n";
        let groups = "root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n";
        add(
            "postgres",
            with_libraries(&[&server, &client])?,
            &[("etc/passwd", users), ("etc/group", groups), ("usr/local/bin/start-postgres", POSTGRES)],
            r#"["/bin/sh","/usr/local/bin/start-postgres"]"#,
            &[&bin, "PGDATA=/var/lib/postgresql/data"],
        )?;
        add("redis", with_libraries(&["redis-server", "redis-tools"])?, &[], r#"["/usr/bin/redis-server"]"#, &[PATH])?;
        add(
            "nginx",
            with_libraries(&["nginx"])?,
            &[("var/log/nginx/.keep", ""), ("var/lib/nginx/.keep", "")],
            r#"["/usr/sbin/nginx","-g","daemon off;"]"#,
            &[PATH],
        )?;
        add("prometheus", with_libraries(&["prometheus"])?, &[], r#"["/usr/bin/prometheus"]"#, &[PATH])?;
        add(
            "shop",
            images::closure(&["python3-psycopg2"])?,
            &[("srv/shop/shop.py", SHOP)],
            r#"["/usr/bin/python3","-u","/srv/shop/shop.py"]"#,
            &[PATH, "PYTHONDONTWRITEBYTECODE=1"],
        )?;
        Ok(index)
    })
}

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// Debian's current server package, as `postgresql-15`.
fn newest_postgres() -> Result<String> {
    let told =
        shell("apt-cache depends postgresql | sed -n 's/.*Depends: \\(postgresql-[0-9]*\\)$/\\1/p' | head -n 1", &[])?;
    let name = told.trim();
    if name.is_empty() { Err("apt knows no postgresql package".into()) } else { Ok(name.to_owned()) }
}

fn version(package: &str) -> &str {
    package.rsplit('-').next().unwrap_or(package)
}

/// Packages and the libraries that they are linked against, and theirs: not what an installation would bring along.
fn with_libraries(packages: &[&str]) -> Result<Vec<String>> {
    // A compiler for queries, and scripts for a page that nobody looks at.
    let script = "apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
                  \"$@\" | sed -n 's/^ *Depends: \\(lib[a-z0-9.+-]*\\|zlib1g\\)$/\\1/p' | grep -vE '^lib(llvm|js-|nginx)' | sort -u";
    let args: Vec<&OsStr> = packages.iter().map(OsStr::new).collect();
    let libraries = shell(script, &args)?;
    let names: Vec<&str> = libraries.lines().collect();
    let mut all = images::closure(&names)?;
    all.extend(packages.iter().map(|p| (*p).to_owned()));
    Ok(all)
}
