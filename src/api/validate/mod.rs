//! What an object must be beyond its types: names, ranges, references within it. Finds everything, not only the first.

mod claim;
mod container;
mod data;
mod lifecycle;
mod meta;
mod mount;
mod pod;
mod security;
mod service;
mod volume;
mod workload;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Display;

use super::decode::Misfit;
use super::document::Object;

/// Everything that is wrong with an object.
pub(super) fn validate(object: &Object) -> Vec<Misfit> {
    let mut found = Findings::default();
    match object {
        Object::Pod(p) => {
            meta::object(&p.metadata, meta::Use::Pod, &mut found);
            pod::pod(p.spec.as_ref(), "spec", pod::Restart::Any, &mut found);
        }
        Object::ConfigMap(c) => {
            meta::object(&c.metadata, meta::Use::Other, &mut found);
            data::config_map(c, &mut found);
        }
        Object::Secret(s) => {
            meta::object(&s.metadata, meta::Use::Other, &mut found);
            data::secret(s, &mut found);
        }
        Object::Deployment(d) => {
            meta::object(&d.metadata, meta::Use::Workload, &mut found);
            workload::deployment(&d.spec, &mut found);
        }
        Object::DaemonSet(d) => {
            meta::object(&d.metadata, meta::Use::Workload, &mut found);
            workload::daemon_set(&d.spec, &mut found);
        }
        Object::StatefulSet(s) => {
            meta::object(&s.metadata, meta::Use::Workload, &mut found);
            workload::stateful_set(&s.spec, &mut found);
        }
        Object::CronJob(c) => {
            meta::object(&c.metadata, meta::Use::Cron, &mut found);
            workload::cron_job(&c.spec, &mut found);
        }
        Object::Job(j) => {
            meta::object(&j.metadata, meta::Use::Job, &mut found);
            workload::job(j.spec.as_ref(), "spec", &mut found);
        }
        Object::Service(s) => {
            meta::object(&s.metadata, meta::Use::Other, &mut found);
            service::service(s, &mut found);
        }
        Object::PersistentVolumeClaim(c) => {
            meta::object(&c.metadata, meta::Use::Other, &mut found);
            claim::claim(c, &mut found);
        }
        Object::Ignored(_) => {}
    }
    found.0
}

/// What was found.
#[derive(Debug, Default)]
struct Findings(Vec<Misfit>);

impl Findings {
    fn add(&mut self, path: impl Display, reason: impl Into<String>) {
        self.0.push(Misfit { path: path.to_string(), reason: reason.into() });
    }

    /// Adds what a check says is wrong.
    fn check<E: Display>(&mut self, path: impl Display, result: Result<(), E>) {
        if let Err(error) = result {
            self.add(path, error.to_string());
        }
    }

    /// A value that must be one of a few.
    fn one_of(&mut self, path: impl Display, value: Option<&str>, allowed: &[&str]) {
        if let Some(value) = value
            && !value.is_empty()
            && !allowed.contains(&value)
        {
            self.add(path, format!("must be one of {}", allowed.join(", ")));
        }
    }

    /// A number that must lie in a range.
    fn range(&mut self, path: impl Display, value: Option<impl Into<i64>>, min: i64, max: i64) {
        if let Some(value) = value.map(Into::into)
            && !(min..=max).contains(&value)
        {
            let reason = if max == i64::MAX {
                format!("must be at least {min}")
            } else {
                format!("must be from {min} to {max}")
            };
            self.add(path, reason);
        }
    }
}

/// Finds names that come twice; `path` makes the path of the second one.
fn unique<'a>(names: impl IntoIterator<Item = (usize, &'a str)>, found: &mut Findings, path: impl Fn(usize) -> String) {
    let mut seen = HashSet::new();
    for (i, name) in names {
        if !name.is_empty() && !seen.insert(name) {
            found.add(path(i), format!("{name:?} is there twice"));
        }
    }
}

/// A path below something: relative, and never up.
fn relative_path(path: &str) -> Result<(), &'static str> {
    if path.starts_with('/') {
        Err("must be a relative path")
    } else if path.split('/').any(|part| part == "..") {
        Err("must not contain \"..\"")
    } else {
        Ok(())
    }
}

/// An absolute path that never goes up.
fn absolute_path(path: &str) -> Result<(), &'static str> {
    match path {
        "" => Err("must not be empty"),
        p if !p.starts_with('/') => Err("must be an absolute path"),
        p if p.split('/').any(|part| part == "..") => Err("must not contain \"..\""),
        _ => Ok(()),
    }
}
