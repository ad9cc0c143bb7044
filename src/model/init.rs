//! Initial values of parameters. They depend only on the seed and the parameter's index, so all ranks compute the same.

use admiral_random::{Philox, Stream};

use super::params::{Init, ParamSpec};

/// Writes the initial values of the parameter with index `index` in its network.
pub fn initialize(spec: &ParamSpec, index: usize, seed: u64, values: &mut [f32]) {
    let mut random = Philox::new(seed, Stream::Initialization, index as u64);
    match spec.init {
        Init::Zeros => values.fill(0.0),
        Init::Ones => values.fill(1.0),
        Init::Uniform { bound } => {
            let mut uniform = [0.0; 1024];
            for values in values.chunks_mut(uniform.len()) {
                let uniform = &mut uniform[..values.len()];
                random.fill_uniform(uniform);
                values
                    .iter_mut()
                    .zip(uniform)
                    .for_each(|(value, uniform)| *value = (bound * (2.0 * *uniform - 1.0)) as f32);
            }
        }
        Init::Normal { std } => {
            random.fill_normal(values);
            values.iter_mut().for_each(|value| *value *= std as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_the_distribution_and_are_reproducible() {
        let draw = |init, index| {
            let spec = ParamSpec { name: "w".into(), shape: vec![1000], torso: false, init };
            let mut values = vec![9.0; 1000];
            initialize(&spec, index, 3, &mut values);
            values
        };
        let uniform = draw(Init::Uniform { bound: 0.5 }, 1);
        assert!(uniform.iter().all(|value| value.abs() <= 0.5) && uniform.iter().any(|value| *value > 0.45));
        assert_eq!(uniform, draw(Init::Uniform { bound: 0.5 }, 1));
        assert_ne!(uniform, draw(Init::Uniform { bound: 0.5 }, 2));
        let normal = draw(Init::Normal { std: 2.0 }, 1);
        let variance = normal.iter().map(|v| v * v).sum::<f32>() / 1000.0;
        assert!((3.0..5.0).contains(&variance), "{variance}");
        assert!(draw(Init::Ones, 0).iter().all(|v| *v == 1.0) && draw(Init::Zeros, 0).iter().all(|v| *v == 0.0));
    }
}
