//! When a node is short of something: `memory.available<100Mi,nodefs.available<10%`, in a kubelet's words.

use std::fmt;
use std::str::FromStr;

use crate::api::quantity::Quantity;
use crate::pod::pressure::Pressure;

/// What a node may be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that is free, or holds files that nobody used lately.
    Memory,
    /// Bytes where the agent keeps its state.
    Disk,
    /// Inodes there.
    Inodes,
    /// Tasks that can still be made.
    Pids,
}

impl Signal {
    const ALL: [(&'static str, Self); 6] = [
        ("memory.available", Self::Memory),
        ("nodefs.available", Self::Disk),
        ("nodefs.inodesFree", Self::Inodes),
        // Images and everything else lie on one file system here.
        ("imagefs.available", Self::Disk),
        ("imagefs.inodesFree", Self::Inodes),
        ("pid.available", Self::Pids),
    ];

    /// The condition that it stands for.
    pub const fn pressure(self) -> Pressure {
        match self {
            Self::Memory => Pressure::Memory,
            Self::Disk | Self::Inodes => Pressure::Disk,
            Self::Pids => Pressure::Pids,
        }
    }

    /// What a message says that the node is low on.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// So much of it, for a message.
    pub fn amount(self, n: u64) -> String {
        match self {
            Self::Memory | Self::Disk if n.is_multiple_of(1024) && n > 0 => format!("{}Ki", n / 1024),
            _ => n.to_string(),
        }
    }
}

/// How much of something there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// In all.
    pub capacity: u64,
    /// Left.
    pub available: u64,
}

/// Less than this is a shortage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Least {
    /// Bytes, inodes or tasks.
    Amount(u64),
    /// Parts of a million of what there is in all.
    Share(u64),
}

/// One threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threshold {
    name: String,
    /// Of what.
    pub signal: Signal,
    least: Least,
}

impl Threshold {
    /// How much there must be at least.
    pub fn least(&self, capacity: u64) -> u64 {
        match self.least {
            Least::Amount(amount) => amount,
            Least::Share(share) => {
                u64::try_from(u128::from(capacity) * u128::from(share) / 1_000_000).unwrap_or(u64::MAX)
            }
        }
    }

    /// Whether it is crossed. Of what has no size (a file system that counts no inodes) there is never a shortage.
    pub fn is_met(&self, level: Level) -> bool {
        level.capacity > 0 && level.available < self.least(level.capacity)
    }
}

/// All thresholds of a node, each signal once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds(Vec<Threshold>);

impl Thresholds {
    /// Those that are crossed, memory first.
    pub fn met(&self, level: impl Fn(Signal) -> Option<Level>) -> Vec<(&Threshold, Level)> {
        let mut met: Vec<_> = self
            .0
            .iter()
            .filter_map(|t| Some((t, level(t.signal)?)))
            .filter(|(threshold, level)| threshold.is_met(*level))
            .collect();
        met.sort_by_key(|(threshold, _)| threshold.signal);
        met
    }
}

impl Default for Thresholds {
    /// What a kubelet has unless it is told otherwise, as far as there is one file system.
    fn default() -> Self {
        let threshold = |name: &str, signal, least| Threshold { name: name.to_owned(), signal, least };
        Self(vec![
            threshold("memory.available<100Mi", Signal::Memory, Least::Amount(100 << 20)),
            threshold("nodefs.available<10%", Signal::Disk, Least::Share(100_000)),
            threshold("nodefs.inodesFree<5%", Signal::Inodes, Least::Share(50_000)),
        ])
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, threshold) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}", threshold.name)?;
        }
        Ok(())
    }
}

impl FromStr for Thresholds {
    type Err = String;

    /// An empty text, and the word `none`, are no thresholds at all.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all: Vec<Threshold> = Vec::new();
        let text = if text.trim() == "none" { "" } else { text };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) =
                part.split_once('<').ok_or_else(|| format!("{part:?} is not of the form signal<quantity"))?;
            let (name, value) = (name.trim(), value.trim());
            let signal = Signal::ALL.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
            let signal = signal.ok_or_else(|| {
                let known: Vec<_> = Signal::ALL.iter().map(|(known, _)| *known).collect();
                format!("{name:?} is not one of {}", known.join(", "))
            })?;
            if all.iter().any(|t| t.name.split_once('<').is_some_and(|(known, _)| known == name)) {
                return Err(format!("{name} is there twice"));
            }
            if let Some(least) = least(value)? {
                all.push(Threshold { name: format!("{name}<{value}"), signal, least });
            }
        }
        Ok(Self(all))
    }
}

/// A quantity or a share; nothing for those shares that a kubelet takes as no threshold.
fn least(text: &str) -> Result<Option<Least>, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return match text.parse::<Quantity>() {
            Ok(quantity) if quantity.milli() > 0 => Ok(Some(Least::Amount(quantity.units()))),
            _ => Err(format!("{text:?} is not a quantity above 0, nor a percentage")),
        };
    };
    let bad = || format!("{text:?} is not a percentage from 0 to 100");
    let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 4 {
        return Err(bad());
    }
    let number = format!("{whole}{part:0<4}").parse::<u64>().map_err(|_| bad())?;
    match number {
        0 | 1_000_000 => Ok(None),
        n if n < 1_000_000 => Ok(Some(Least::Share(n))),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(text: &str, available: u64) -> usize {
        let level = Level { capacity: 1000, available };
        text.parse::<Thresholds>().unwrap().met(|_| Some(level)).len()
    }

    #[test]
    fn a_threshold_is_crossed_below_its_amount_or_share() {
        assert_eq!([met("memory.available<100", 99), met("memory.available<100", 100)], [1, 0]);
        assert_eq!([met("nodefs.available<10%", 99), met("nodefs.available<10%", 100)], [1, 0]);
        assert_eq!([met("nodefs.available<99.9%", 998), met("nodefs.available<99.9%", 999)], [1, 0]);
        assert_eq!(
            [met("memory.available<0%", 0), met("memory.available<100%", 0), met("", 0), met("none", 0)],
            [0; 4]
        );
        let default = Thresholds::default();
        assert_eq!(default.to_string().parse::<Thresholds>().unwrap(), default);
        assert_eq!(met(&default.to_string(), 1), 3);
        let none = Level { capacity: 0, available: 0 };
        assert!(default.met(|_| Some(none)).is_empty());
    }

    #[test]
    fn memory_is_seen_to_before_the_disk() {
        let all: Thresholds = "pid.available<10,nodefs.inodesFree<5%, memory.available < 1Mi".parse().unwrap();
        let met = all.met(|_| Some(Level { capacity: 1000, available: 1 }));
        let signals: Vec<_> = met.iter().map(|(t, _)| t.signal).collect();
        assert_eq!(signals, [Signal::Memory, Signal::Inodes, Signal::Pids]);
        assert_eq!(all.to_string(), "pid.available<10, nodefs.inodesFree<5%, memory.available<1Mi");
    }

    #[test]
    fn what_is_no_threshold_is_refused_by_name() {
        for (text, why) in [
            ("memory.available", "is not of the form"),
            ("memory.free<1", "is not one of memory.available, nodefs.available"),
            ("memory.available<1,memory.available<2", "twice"),
            ("memory.available<-1", "not a quantity above 0"),
            ("memory.available<0", "not a quantity above 0"),
            ("nodefs.available<101%", "not a percentage"),
            ("nodefs.available<1e1%", "not a percentage"),
            ("nodefs.available<%", "not a percentage"),
        ] {
            let error = text.parse::<Thresholds>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
