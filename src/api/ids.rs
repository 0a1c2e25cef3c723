//! Names that have been checked: a pod's uid, a pod's namespace and name, a container's name.
//!
//! All of them end in paths and cgroup names, so their text is limited to what is harmless there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest DNS label (RFC 1123).
pub const MAX_LABEL: usize = 63;
/// The longest DNS subdomain (RFC 1123).
pub const MAX_SUBDOMAIN: usize = 253;
/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is too long.
    #[error("must be no longer than {max} characters")]
    Long {
        /// The longest there may be.
        max: usize,
    },
    /// It has a character that is not allowed, or not there.
    #[error("must be lower case letters, digits and '-'{}, and start and end with a letter or digit", if *.dots { " or '.'" } else { "" })]
    Form {
        /// Whether dots are fine between labels.
        dots: bool,
    },
    /// It is not a UUID in lower case.
    #[error("must be a UUID in lower case")]
    Uid,
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|&b| inner(b) || b == b'-')
        && bytes.first().is_some_and(|&b| inner(b))
        && bytes.last().is_some_and(|&b| inner(b))
}

/// Checks a DNS label (RFC 1123): namespaces, containers, volumes.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_label(text: &str) -> Result<(), NameError> {
    match text {
        "" => Err(NameError::Empty),
        t if t.len() > MAX_LABEL => Err(NameError::Long { max: MAX_LABEL }),
        t if is_label(t) => Ok(()),
        _ => Err(NameError::Form { dots: false }),
    }
}

/// Checks a DNS subdomain (RFC 1123): most objects' names.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_subdomain(text: &str) -> Result<(), NameError> {
    match text {
        "" => Err(NameError::Empty),
        t if t.len() > MAX_SUBDOMAIN => Err(NameError::Long { max: MAX_SUBDOMAIN }),
        t if t.split('.').all(is_label) => Ok(()),
        _ => Err(NameError::Form { dots: true }),
    }
}

/// A pod's uid: random, made when the pod is first accepted, kept until it is replaced.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodUid(String);

impl PodUid {
    /// A new one (a version 4 UUID).
    pub fn random() -> Self {
        Self::from_bytes(rand::random())
    }

    /// The UUID with these bytes, its version and variant set.
    pub fn from_bytes(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (i, byte) in bytes.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            // Writing to a String cannot fail.
            let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        }
        Self(text)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodUid {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            });
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Uid) }
    }
}

/// A container's name within its pod: a DNS label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_label(text).map(|()| Self(text.to_owned()))
    }
}

macro_rules! text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text!(PodUid);
text!(ContainerName);

/// Which pod a person means: its namespace and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PodKey {
    /// The key of an object with this metadata; no namespace means [`DEFAULT_NAMESPACE`].
    pub fn of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What resources of huge pages begin with.
pub const HUGE_PAGES: &str = "hugepages-";

/// The size of a page in bytes that a resource (`hugepages-2Mi`) names.
pub fn page_size(resource: &str) -> Option<u64> {
    let size = resource.strip_prefix(HUGE_PAGES)?.parse::<super::quantity::Quantity>().ok()?;
    Some(size.units()).filter(|size| size.is_power_of_two() && *size >= 4096)
}

/// Whether this is how a device is written that files of the node describe (CDI): `vendor/class=name`.
pub fn is_device(text: &str) -> bool {
    let good = |part: &str, more: &[u8]| {
        let bytes = part.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || more.contains(b))
    };
    text.split_once('/')
        .and_then(|(vendor, rest)| Some((vendor, rest.split_once('=')?)))
        .is_some_and(|(vendor, (class, name))| good(vendor, b"_-.") && good(class, b"_-.") && good(name, b"_-.:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_are_those_of_rfc_1123() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a/b", "..", &"a".repeat(64)] {
            assert!(check_label(bad).is_err(), "{bad}");
        }
        for good in ["a.b", "web-1.example", "a.".repeat(126).trim_end_matches('.')] {
            assert_eq!(check_subdomain(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a..b", "a.", ".a", "a/b", &"a".repeat(254)] {
            assert!(check_subdomain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_uid_is_a_version_4_uuid_and_parses_back() {
        let uid = PodUid::random();
        assert_eq!(uid.as_str().parse::<PodUid>(), Ok(uid.clone()));
        assert_eq!(&uid.as_str()[14..15], "4");
        assert!("../../../../../../../../../../etc/pass".parse::<PodUid>().is_err());
        assert_eq!(PodUid::from_bytes([0xff; 16]).as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn a_device_is_known_by_vendor_class_and_name() {
        for good in ["vendor.com/class=name", "v/c=0", "nvidia.com/gpu=GPU-1:0"] {
            assert!(is_device(good), "{good}");
        }
        for bad in ["", "a", "a/b", "a/b=", "/b=c", "a/=c", "a/b=-c", "a/b=c/d", "a b/c=d"] {
            assert!(!is_device(bad), "{bad}");
        }
    }
}
