//! The samples of a step, with the terms of the objective for each.

use tch::{Device, Kind, Tensor};

use super::error::TrainError;
use super::objective::Microbatch;

/// The samples of a step on this rank, with the terms of the objective for each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleTerms {
    /// Global index of each sample.
    pub indices: Vec<u64>,
    /// Timestep of each sample.
    pub timesteps: Vec<i64>,
    /// Importance weight of each sample.
    pub weights: Vec<f32>,
    /// The logged terms by name, each with one weighted value per sample.
    pub terms: Vec<(&'static str, Vec<f32>)>,
}

/// Deferred statistics: the terms of a step's samples, which stay on the device. The host reads them at the end of the
/// step together with the norms, in one copy, so that it waits for the GPU once per step.
#[derive(Debug, Default)]
pub(super) struct DeferredStatistics {
    indices: Vec<u64>,
    timesteps: Vec<i64>,
    weights: Vec<Tensor>,
    terms: Vec<(&'static str, Vec<Tensor>)>,
}

impl DeferredStatistics {
    /// Adds the samples of a pass.
    pub(super) fn append(&mut self, batch: Microbatch, terms: Vec<(&'static str, Tensor)>) {
        self.indices.extend(batch.indices);
        self.timesteps.extend(batch.timesteps);
        self.weights.push(batch.weights);
        self.terms.resize_with(terms.len(), Default::default);
        for (all, (name, values)) in self.terms.iter_mut().zip(terms) {
            all.0 = name;
            all.1.push(values);
        }
    }

    /// Copies everything to the host and returns both norms and the samples.
    pub(super) fn read(self, norms: &Tensor) -> Result<([f64; 2], SampleTerms), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let rows = self.weights.iter().chain(self.terms.iter().flat_map(|(_, values)| values));
        // float64 represents every float32 exactly.
        let all: Vec<Tensor> = std::iter::once(norms).chain(rows).map(|row| row.to_kind(Kind::Double)).collect();
        let values = Vec::<f64>::try_from(Tensor::f_cat(&all, 0)?.f_to_device(Device::Cpu)?)?;
        let (norms, rest) = values.split_at(2);
        let mut rows = rest.chunks(self.indices.len().max(1)).map(|row| row.iter().map(|&x| x as f32).collect());
        let weights = rows.next().unwrap_or_default();
        let terms = self.terms.iter().map(|(name, _)| *name).zip(rows).collect();
        let samples = SampleTerms { indices: self.indices, timesteps: self.timesteps, weights, terms };
        Ok(([norms[0], norms[1]], samples))
    }
}

impl SampleTerms {
    /// Returns the timestep and the loss of each sample, without the importance weight. A timestep sampler learns from
    /// them.
    pub fn unweighted_losses(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        let weighted = self.timesteps.iter().zip(&self.weights).zip(self.term("loss"));
        weighted.map(|((&timestep, &weight), &loss)| (timestep, f64::from(loss) / f64::from(weight)))
    }

    /// Returns the values of a term, or an empty slice if the objective has no such term.
    #[must_use]
    pub fn term(&self, name: &str) -> &[f32] {
        self.terms.iter().find(|(term, _)| *term == name).map_or(&[], |(_, values)| values)
    }

    /// Returns the mean of a term over this rank's samples, or `None` if the objective has no such term.
    #[must_use]
    pub fn mean(&self, name: &str) -> Option<f64> {
        let (_, values) = self.terms.iter().find(|(term, _)| *term == name)?;
        Some(values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64)
    }
}
