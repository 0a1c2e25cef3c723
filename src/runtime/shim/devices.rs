//! Which devices a container's cgroup lets it open: those of every container, and what its spec adds.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};

use crate::runtime::protocol::{Failure, FailureKind};
use crate::sys::device::{Access, Kind, Rule};

/// What runc allows every container: to make any node (which opens nothing), and to use those that name no hardware:
/// null, zero, full, random, urandom, tty, console, ptmx, and terminals.
const STANDARD: [Rule; 11] = [
    Rule { kind: Kind::Char, major: None, minor: None, access: Access::MAKE },
    Rule { kind: Kind::Block, major: None, minor: None, access: Access::MAKE },
    Rule::char(1, 3),
    Rule::char(1, 5),
    Rule::char(1, 7),
    Rule::char(1, 8),
    Rule::char(1, 9),
    Rule::char(5, 0),
    Rule::char(5, 1),
    Rule::char(5, 2),
    Rule { kind: Kind::Char, major: Some(136), minor: None, access: Access::ALL },
];

/// The rules of a container that is not privileged.
pub(super) fn rules(spec: &Spec) -> Result<Vec<Rule>, Failure> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let listed = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let mut rules = STANDARD.to_vec();
    for device in listed {
        let all = device.typ().is_none_or(|t| t == LinuxDeviceType::A)
            && device.major().is_none()
            && device.minor().is_none();
        match (device.allow(), all) {
            (true, _) => rules.push(rule(device).ok_or_else(|| unusable(device))?),
            // What no rule allows is forbidden anyway.
            (false, true) => {}
            (false, false) => return Err(unusable(device)),
        }
    }
    Ok(rules)
}

fn rule(device: &LinuxDeviceCgroup) -> Option<Rule> {
    let kind = match device.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => Kind::Any,
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => Kind::Char,
        LinuxDeviceType::P => return None,
    };
    let number = |n: Option<i64>| match n {
        // -1 stands for any, as elsewhere.
        None | Some(-1) => Some(None),
        Some(n) => u32::try_from(n).ok().map(Some),
    };
    let access = Access::parse(device.access().as_deref().unwrap_or("rwm"))?;
    Some(Rule { kind, major: number(device.major())?, minor: number(device.minor())?, access })
}

fn unusable(device: &LinuxDeviceCgroup) -> Failure {
    Failure::new(FailureKind::Invalid, format!("the device rule {device} cannot be kept"))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxBuilder, LinuxDeviceCgroupBuilder, LinuxResourcesBuilder, SpecBuilder};

    use super::*;

    fn spec(devices: Vec<LinuxDeviceCgroup>) -> Spec {
        let resources = LinuxResourcesBuilder::default().devices(devices).build().unwrap();
        let linux = LinuxBuilder::default().resources(resources).build().unwrap();
        SpecBuilder::default().linux(linux).build().unwrap()
    }

    fn deny() -> LinuxDeviceCgroupBuilder {
        LinuxDeviceCgroupBuilder::default().allow(false).access("rwm")
    }

    #[test]
    fn no_disk_can_be_opened_unless_the_spec_names_it() {
        let opens = |rules: &[Rule]| {
            rules.iter().any(|r| r.kind != Kind::Char && (r.access.read || r.access.write) && r.major.is_none_or(|m| m == 8))
        };
        assert!(!opens(&rules(&Spec::default()).unwrap()));
        assert!(!opens(&rules(&spec(vec![deny().build().unwrap()])).unwrap()));
        let disk = LinuxDeviceCgroupBuilder::default().allow(true).typ(LinuxDeviceType::B).major(8).minor(-1).access("r");
        assert!(opens(&rules(&spec(vec![disk.build().unwrap()])).unwrap()));
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused() {
        let null = deny().typ(LinuxDeviceType::C).major(1).minor(3).build().unwrap();
        assert!(rules(&spec(vec![null])).is_err());
        let odd = LinuxDeviceCgroupBuilder::default().allow(true).major(-2).access("rwm").build().unwrap();
        assert!(rules(&spec(vec![odd])).is_err());
        let letters = LinuxDeviceCgroupBuilder::default().allow(true).major(1).access("rwx").build().unwrap();
        assert!(rules(&spec(vec![letters])).is_err());
    }
}
