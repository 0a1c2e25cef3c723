//! The Prometheus registry and the way families are made: each module owns a struct of its metrics and makes it here.

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

/// All families of one agent. Cheap to clone; every clone is the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry(prometheus::Registry);

macro_rules! family {
    ($(#[$doc:meta])* $plain:ident: $Plain:ty, $labelled:ident: $Labelled:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// If the name is taken or not a valid one.
        pub fn $plain(&self, name: &str, help: &str) -> Result<$Plain, Error> {
            self.add(<$Plain>::with_opts(Opts::new(name, help)))
        }

        /// As the function above, with labels from a closed set.
        ///
        /// # Errors
        /// If the name is taken or not a valid one.
        pub fn $labelled(&self, name: &str, help: &str, labels: &[&str]) -> Result<$Labelled, Error> {
            self.add(<$Labelled>::new(Opts::new(name, help), labels))
        }
    };
}

impl Registry {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> Result<C, Error> {
        made.and_then(|c| self.0.register(Box::new(c.clone())).map(|()| c))
            .map_err(|source| Error { action: "register", source })
    }

    family! {
        /// A counter of whole events.
        counter: IntCounter, counters: IntCounterVec
    }
    family! {
        /// A gauge of whole units.
        gauge: IntGauge, gauges: IntGaugeVec
    }
    family! {
        /// A counter of seconds.
        seconds: Counter, seconds_by: CounterVec
    }
    family! {
        /// A gauge that may have a fraction.
        real: Gauge, reals: GaugeVec
    }

    /// A histogram with upper bounds `buckets`.
    ///
    /// # Errors
    /// If the name is taken or not a valid one.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// A histogram with labels from a closed set.
    ///
    /// # Errors
    /// If the name is taken or not a valid one.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, Error> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// Adds a collector that makes its families when it is scraped.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn collector(&self, collector: Box<dyn Collector>) -> Result<(), Error> {
        self.0.register(collector).map_err(|source| Error { action: "register", source })
    }

    /// All families in the Prometheus text format.
    ///
    /// # Errors
    /// If a family has no valid name.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.0.gather(), &mut out).map_err(|source| Error { action: "encode", source })?;
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
        assert!(String::from_utf8(registry.encode().unwrap()).unwrap().contains("lamina_x_total 1"));
    }
}
