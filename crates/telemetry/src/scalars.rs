//! Sums of a run's scalars between two log steps, in one flat list so that one all-reduce sums them over the ranks.

/// The means that are kept of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// One mean over all samples.
    Mean,
    /// The mean over all samples, and the mean over each quarter of the timesteps: `loss`, `loss_q0` to `loss_q3`.
    TimestepQuartiles,
}

/// The identifier of a scalar, returned by [`ScalarSums::define`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalarId {
    slot: usize,
    detail: Detail,
}

/// Sums and counts of scalars since the last log step.
///
/// All ranks must define the same scalars in the same order, because the order determines the flat layout.
#[derive(Debug, Clone)]
pub struct ScalarSums {
    num_timesteps: usize,
    names: Vec<String>,
    /// The sum and the count of each name, `[names, 2]`.
    flat: Vec<f64>,
}

impl ScalarSums {
    /// Returns an empty set. `num_timesteps` is the length of the diffusion process before respacing.
    pub fn new(num_timesteps: usize) -> Self {
        Self { num_timesteps: num_timesteps.max(1), names: Vec::new(), flat: Vec::new() }
    }

    /// Adds a scalar to the set and returns its identifier.
    pub fn define(&mut self, name: &str, detail: Detail) -> ScalarId {
        let slot = self.names.len();
        self.names.push(name.to_owned());
        if detail == Detail::TimestepQuartiles {
            self.names.extend((0..4).map(|quartile| format!("{name}_q{quartile}")));
        }
        self.flat.resize(2 * self.names.len(), 0.0);
        ScalarId { slot, detail }
    }

    /// Adds one value. For a scalar with quartiles, the value counts in the overall mean only.
    pub fn add(&mut self, id: ScalarId, value: f64) {
        self.add_to(id.slot, value);
    }

    /// Adds one value per sample. `timesteps` are the samples' timesteps, each in `0..num_timesteps`. Both lists have
    /// the same length.
    pub fn add_samples(&mut self, id: ScalarId, values: &[f64], timesteps: &[usize]) {
        debug_assert_eq!(values.len(), timesteps.len());
        for (&value, &timestep) in values.iter().zip(timesteps) {
            self.add_to(id.slot, value);
            if id.detail == Detail::TimestepQuartiles {
                self.add_to(id.slot + 1 + quartile(timestep, self.num_timesteps), value);
            }
        }
    }

    fn add_to(&mut self, slot: usize, value: f64) {
        self.flat[2 * slot] += value;
        self.flat[2 * slot + 1] += 1.0;
    }

    /// Returns all sums and counts, `[names, 2]`, which the caller sums over the ranks in place.
    pub fn flat_mut(&mut self) -> &mut [f64] {
        &mut self.flat
    }

    /// Returns the name and mean of every scalar that has a value, in the order of definition, and clears all sums.
    pub fn take_means(&mut self) -> Vec<(String, f64)> {
        let means = self
            .names
            .iter()
            .zip(self.flat.chunks_exact(2))
            .filter(|(_, pair)| pair[1] > 0.0)
            .map(|(name, pair)| (name.clone(), pair[0] / pair[1]))
            .collect();
        self.flat.fill(0.0);
        means
    }
}

/// Returns the quarter of the diffusion process that contains a timestep, 0 to 3.
fn quartile(timestep: usize, num_timesteps: usize) -> usize {
    (4 * timestep / num_timesteps).min(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_divide_the_timesteps_in_four() {
        assert_eq!([0, 249, 250, 499, 500, 750, 999].map(|t| quartile(t, 1000)), [0, 0, 1, 1, 2, 3, 3]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|t| quartile(t, 6)), [0, 0, 1, 2, 2, 3]);
    }

    fn filled(values: &[f64], timesteps: &[usize]) -> ScalarSums {
        let mut sums = ScalarSums::new(1000);
        let loss = sums.define("loss", Detail::TimestepQuartiles);
        let norm = sums.define("grad_norm", Detail::Mean);
        sums.define("never", Detail::Mean);
        sums.add_samples(loss, values, timesteps);
        sums.add(norm, 7.0);
        sums
    }

    #[test]
    fn means_are_over_samples_and_omit_scalars_without_values() {
        let mut sums = filled(&[1.0, 2.0, 6.0], &[0, 999, 800]);
        let expected = [("loss", 3.0), ("loss_q0", 1.0), ("loss_q3", 4.0), ("grad_norm", 7.0)];
        assert_eq!(sums.take_means(), expected.map(|(name, mean)| (name.to_owned(), mean)));
        assert_eq!(sums.take_means(), [], "taking the means clears the sums");
    }

    #[test]
    fn sums_of_all_ranks_give_the_mean_over_all_samples() {
        let (mut here, mut there) = (filled(&[1.0], &[0]), filled(&[2.0, 6.0], &[999, 800]));
        for (sum, other) in here.flat_mut().iter_mut().zip(there.flat_mut()) {
            *sum += *other;
        }
        assert_eq!(here.take_means(), filled(&[1.0, 2.0, 6.0], &[0, 999, 800]).take_means());
    }
}
