//! Samples of one measured quantity, and the few statistics a report gives of them.

use std::time::Duration;

use serde_json::{Value, json};

/// One line of a report: a sample for each round.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Stable name in the JSON output.
    pub(crate) key: &'static str,
    pub(crate) label: String,
    pub(crate) unit: &'static str,
    pub(crate) samples: Vec<f64>,
    /// The target: the value should be at most this. It is shown and fails no run.
    pub(crate) target: Option<f64>,
}

impl Figure {
    pub(crate) fn one(
        key: &'static str,
        label: impl Into<String>,
        unit: &'static str,
        sample: f64,
    ) -> Self {
        Self { key, label: label.into(), unit, samples: vec![sample], target: None }
    }

    /// Sets the target.
    pub(crate) fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "key": self.key,
            "label": self.label,
            "unit": self.unit,
            "min": self.min(),
            "median": self.median(),
            "max": self.max(),
            "samples": self.samples,
            "target_at_most": self.target,
        })
    }

    pub(crate) fn min(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The middle sample, or the mean of the two middle ones.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            f64::midpoint(at(half.wrapping_sub(1)), at(half))
        } else {
            at(half)
        }
    }
}

/// Joins rounds of the same scenario: figure by figure, samples in a row.
pub(crate) fn join(rounds: Vec<Vec<Figure>>) -> Vec<Figure> {
    let mut joined: Vec<Figure> = Vec::new();
    for figure in rounds.into_iter().flatten() {
        match joined.iter_mut().find(|known| known.key == figure.key) {
            Some(known) => known.samples.extend(figure.samples),
            None => joined.push(figure),
        }
    }
    joined
}

/// The smallest of `sorted` that at least `percent` percent do not exceed, in microseconds.
pub(crate) fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        let figure = |samples: &[f64]| Figure {
            key: "k",
            label: String::new(),
            unit: "",
            samples: samples.to_vec(),
            target: None,
        };
        assert!((figure(&[3.0, 1.0, 2.0]).median() - 2.0).abs() < 1e-9);
        assert!((figure(&[4.0, 1.0, 2.0, 3.0]).median() - 2.5).abs() < 1e-9);
        assert!(figure(&[]).median().is_nan());
        let times: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert!((percentile_us(&times, 50) - 50.0).abs() < 1e-9);
        assert!((percentile_us(&times, 99) - 99.0).abs() < 1e-9);
        assert!(percentile_us(&[], 50).is_nan());
    }

    #[test]
    fn rounds_are_joined_by_key() {
        let round = |value| vec![Figure::one("a", "A", "µs", value)];
        let joined = join(vec![round(1.0), round(2.0)]);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined.first().map(|figure| figure.samples.as_slice()), Some(&[1.0, 2.0][..]));
    }
}
