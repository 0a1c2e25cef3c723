//! The Prometheus registry and the way families are made: each module owns a struct of its metrics and makes it here.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
};

/// Why a family could not be made or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} metrics")]
pub struct Error {
    /// `register` or `encode`.
    pub action: &'static str,
    /// What the library said.
    pub source: prometheus::Error,
}

/// What the series of a family do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// They only grow.
    Counter,
    /// They go up and down.
    Gauge,
    /// They count by upper bound.
    Histogram,
}

impl Kind {
    /// As the text format writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family as it was registered, whether or not it has a series yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: Vec<String>,
    /// Its help text.
    pub help: String,
}

impl Described {
    /// What a collector says of its families, all of one kind.
    pub fn of(collector: &dyn Collector, kind: Kind) -> Vec<Self> {
        let of = |desc: &prometheus::core::Desc| Self {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        };
        collector.desc().into_iter().map(of).collect()
    }
}

/// All families of one agent. Cheap to clone; every clone is the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    families: prometheus::Registry,
    described: Arc<Mutex<Vec<Described>>>,
}

macro_rules! family {
    ($(#[$doc:meta])* $kind:ident, $plain:ident: $Plain:ty, $labelled:ident: $Labelled:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// If the name is taken or not a valid one.
        pub fn $plain(&self, name: &str, help: &str) -> Result<$Plain, Error> {
            self.add(Kind::$kind, <$Plain>::with_opts(Opts::new(name, help)))
        }

        /// As the function above, with labels from a closed set.
        ///
        /// # Errors
        /// If the name is taken or not a valid one.
        pub fn $labelled(&self, name: &str, help: &str, labels: &[&str]) -> Result<$Labelled, Error> {
            self.add(Kind::$kind, <$Labelled>::new(Opts::new(name, help), labels))
        }
    };
}

impl Registry {
    fn add<C: Collector + Clone + 'static>(&self, kind: Kind, made: prometheus::Result<C>) -> Result<C, Error> {
        let made = made.map_err(|source| Error { action: "register", source })?;
        self.collector(Box::new(made.clone()), Described::of(&made, kind))?;
        Ok(made)
    }

    family! {
        /// A counter of whole events.
        Counter, counter: IntCounter, counters: IntCounterVec
    }
    family! {
        /// A gauge of whole units.
        Gauge, gauge: IntGauge, gauges: IntGaugeVec
    }
    family! {
        /// A counter of seconds.
        Counter, seconds: Counter, seconds_by: CounterVec
    }
    family! {
        /// A gauge that may have a fraction.
        Gauge, real: Gauge, reals: GaugeVec
    }

    /// A histogram with upper bounds `buckets`.
    ///
    /// # Errors
    /// If the name is taken or not a valid one.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.add(Kind::Histogram, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// A histogram with labels from a closed set.
    ///
    /// # Errors
    /// If the name is taken or not a valid one.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, Error> {
        self.add(Kind::Histogram, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// Adds a collector that makes its families when it is scraped; `described` are those that it may make.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn collector(&self, collector: Box<dyn Collector>, described: Vec<Described>) -> Result<(), Error> {
        self.families.register(collector).map_err(|source| Error { action: "register", source })?;
        // Only ever appended to, so what a panicked holder left is whole.
        self.described.lock().unwrap_or_else(PoisonError::into_inner).extend(described);
        Ok(())
    }

    /// Every family that was registered, by name.
    pub fn described(&self) -> Vec<Described> {
        let mut all = self.described.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        all
    }

    /// All families in the Prometheus text format.
    ///
    /// # Errors
    /// If a family has no valid name.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.families.gather(), &mut out)
            .map_err(|source| Error { action: "encode", source })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once() {
        let registry = Registry::default();
        registry.counter("lamina_x_total", "Things.").unwrap().inc();
        assert!(registry.counter("lamina_x_total", "Things.").is_err());
        assert_eq!(registry.described().len(), 1);
        assert!(String::from_utf8(registry.encode().unwrap()).unwrap().contains("lamina_x_total 1"));
    }
}
