//! `emptyDir`: a directory that lives as long as its pod, or a tmpfs or huge pages that do.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::{Context, Error, Source, mount_attributes};
use crate::api::ids::{HUGE_PAGES, page_size};
use crate::api::quantity::Quantity;
use crate::api::view::has_own_users;
use crate::sys::mount::Mount;
use crate::sys::quota;

/// Everyone may write, as on a kubelet; with a group of its own, new files belong to that group.
const MODE: u32 = 0o777;
const GROUP_MODE: u32 = 0o2777;

pub(super) fn prepare(name: &str, empty: &EmptyDirVolumeSource, context: &Context<'_>) -> Result<Source, Error> {
    let own_mode = empty.mode.and_then(|m| u32::try_from(m).ok());
    let mode = if context.fs_group.is_some() { GROUP_MODE } else { own_mode.unwrap_or(MODE) };
    if empty.medium.as_deref() == Some("Memory") {
        let size = empty.size_limit.as_ref().map(|limit| bytes(name, limit)).transpose()?;
        let mount = Mount::tmpfs(size, mode, mount_attributes())
            .map_err(|source| Error::Mount { volume: name.to_owned(), source })?;
        own(name, &mount.proc_path(), context)?;
        return Ok(Source::Mount(mount));
    }
    if let Some(pages) = empty.medium.as_deref().and_then(|medium| medium.strip_prefix("HugePages")) {
        let page = pages.strip_prefix('-').map(str::to_owned).or_else(|| only_size(context.pod));
        let page = page.and_then(|size| page_size(&format!("{HUGE_PAGES}{size}")));
        let size = empty.size_limit.as_ref().map(|limit| bytes(name, limit)).transpose()?;
        let mount = Mount::huge_pages(page, size, mode, mount_attributes())
            .map_err(|source| Error::Mount { volume: name.to_owned(), source })?;
        own(name, &mount.proc_path(), context)?;
        return Ok(Source::Mount(mount));
    }
    let path = context.directory.join(name);
    let failed = |action| {
        let path = path.clone();
        move |source| Error::Io { volume: name.to_owned(), action, path, source }
    };
    match std::fs::DirBuilder::new().mode(MODE).create(&path) {
        Ok(()) => {
            if has_own_users(context.pod) {
                quota::mark(&path);
            }
            // The umask must not narrow it.
            let permissions = std::fs::Permissions::from_mode(mode);
            own(name, &path, context)?;
            std::fs::set_permissions(&path, permissions).map_err(failed("set the mode of"))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed("create")(e)),
    }
    Ok(Source::Directory(path))
}

/// The one size of huge pages that a pod's containers have.
fn only_size(pod: &Pod) -> Option<String> {
    let all = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let limits = all.filter_map(|c| c.resources.as_ref()?.limits.as_ref()).flat_map(|l| l.keys());
    limits.into_iter().find_map(|name| name.strip_prefix(HUGE_PAGES).map(str::to_owned))
}

fn own(name: &str, path: &std::path::Path, context: &Context<'_>) -> Result<(), Error> {
    let Some(group) = context.fs_group else { return Ok(()) };
    chown(path, None, Some(group)).map_err(|source| Error::Io {
        volume: name.to_owned(),
        action: "set the group of",
        path: path.to_owned(),
        source,
    })
}

fn bytes(volume: &str, limit: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<u64, Error> {
    match Quantity::of(limit) {
        Ok(quantity) => Ok(quantity.units()),
        Err(_) => Err(Error::Size { volume: volume.to_owned(), limit: limit.0.clone() }),
    }
}
