//! Building families by hand, for collectors that make theirs at each scrape.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::{Described, Kind};

/// The one family that the collector describes beforehand.
pub(super) const BUILD_INFO: Family =
    gauge("lamina_build_info", "Always 1; the labels say which build this is. Moves with an upgrade.")
        .by(&["version", "revision"]);

/// A family's name, help and type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
}

impl Family {
    /// The family with the labels that its series have.
    pub(super) const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// For documentation.
    pub(super) fn described(&self) -> Described {
        Described {
            name: self.name.to_owned(),
            kind: if self.kind == MetricType::COUNTER { Kind::Counter } else { Kind::Gauge },
            labels: self.labels.iter().map(|label| (*label).to_owned()).collect(),
            help: self.help.to_owned(),
        }
    }
}

/// A counter's description.
pub(super) const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::COUNTER, labels: &[] }
}

/// A gauge's description.
pub(super) const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::GAUGE, labels: &[] }
}

/// The families of one scrape.
#[derive(Debug, Default)]
pub(super) struct Families(BTreeMap<&'static str, MetricFamily>);

/// A whole number as the text format has numbers.
#[expect(clippy::cast_precision_loss, reason = "the text format has 53 bits")]
pub(super) fn real(n: u64) -> f64 {
    n as f64
}

/// A number of things.
pub(super) fn count(n: usize) -> f64 {
    real(u64::try_from(n).unwrap_or(u64::MAX))
}

/// Microseconds in seconds.
pub(super) fn seconds(micros: u64) -> f64 {
    real(micros) / 1e6
}

impl Families {
    /// Adds one series; a value that is not known has none.
    pub(super) fn add(&mut self, family: &Family, labels: &[(&str, &str)], value: Option<f64>) {
        let Some(value) = value else { return };
        let entry = self.0.entry(family.name).or_insert_with(|| {
            let mut made = MetricFamily::default();
            made.set_name(family.name.to_owned());
            made.set_help(family.help.to_owned());
            made.set_field_type(family.kind);
            made
        });
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        if family.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        let mut metrics = entry.take_metric();
        metrics.push(metric);
        entry.set_metric(metrics);
    }

    /// Which build this is.
    pub(super) fn build_info(&mut self) {
        let labels =
            [("version", env!("CARGO_PKG_VERSION")), ("revision", option_env!("LAMINA_REVISION").unwrap_or("unknown"))];
        self.add(&BUILD_INFO, &labels, Some(1.0));
    }

    /// All of them, by name.
    pub(super) fn finish(self) -> Vec<MetricFamily> {
        self.0.into_values().collect()
    }
}
