//! Finds the first tensors of a step that are not finite, forward and backward.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;

use crate::model::{LayerTensor, ParamId, ParamSpecs, Probe};
use crate::ops::bridge::watch_gradient;

use super::finding::{Finding, What, is_finite, name_of, range_of};
use super::pass::Pass;

/// A probe that keeps the first tensor that is not finite of the forward passes, and the first of the backward passes.
/// Clones share what they find.
#[derive(Debug, Clone)]
pub(super) struct Finder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For each parameter, the module path of its layer.
    layers: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pass: Pass,
    /// The last tensor of the forward pass.
    values: Option<Tensor>,
    /// The last tensor that was seen in the forward pass, and in the backward pass.
    last: [Option<String>; 2],
    forward: Option<Finding>,
    backward: Option<Finding>,
    /// The first failure to watch a gradient.
    problem: Option<String>,
}

impl Finder {
    /// Creates a finder for a network with these parameters.
    pub(super) fn new(specs: &ParamSpecs) -> Self {
        let layer = |name: &str| name.rsplit_once('.').map_or(name, |(layer, _)| layer).to_owned();
        let layers = specs.iter().map(|spec| layer(&spec.name)).collect();
        Self(Arc::new(Shared { layers, state: Mutex::default() }))
    }

    /// Begins a pass.
    pub(super) fn begin(&self, pass: Pass) {
        let mut state = self.0.lock();
        state.pass = pass;
        state.last = [None, None];
    }

    /// Looks at a tensor of the forward pass that belongs to no layer.
    pub(super) fn look(&self, tensor: What, values: &Tensor) {
        self.0.see_forward("", tensor, values);
    }

    /// Keeps a parameter's gradient that is not finite, if nothing was found in backward before it.
    pub(super) fn parameter_gradient(&self, name: &str, values: &Tensor) {
        self.0.see_backward(name, What::ParameterGradient, values);
    }

    /// Returns the first tensor of the forward passes that is not finite, and the first of the backward passes.
    ///
    /// # Errors
    /// When a gradient could not be watched.
    pub(super) fn found(&self) -> Result<(Option<Finding>, Option<Finding>), String> {
        let state = self.0.lock();
        match &state.problem {
            Some(problem) => Err(problem.clone()),
            None => Ok((state.forward.clone(), state.backward.clone())),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see_forward(&self, module: &str, tensor: What, values: &Tensor) {
        let mut state = self.lock();
        if state.forward.is_none() && !is_finite(values) {
            let found = Finding::of(&state.pass, module, tensor, values);
            let has_input = matches!(tensor, What::Output | What::Loss);
            let input_range = state.values.as_ref().filter(|_| has_input).and_then(range_of);
            state.forward = found.map(|found| Finding { input_range, after: state.last[0].clone(), ..found });
        }
        state.last[0] = Some(name_of(module, tensor));
        state.values = Some(values.detach());
    }

    fn see_backward(&self, module: &str, tensor: What, values: &Tensor) {
        let mut state = self.lock();
        if state.backward.is_none() && !is_finite(values) {
            let found = Finding::of(&state.pass, module, tensor, values);
            state.backward = found.map(|found| Finding { after: state.last[1].clone(), ..found });
        }
        state.last[1] = Some(name_of(module, tensor));
    }
}

impl Probe for Finder {
    fn see(&self, layer: ParamId, tensor: LayerTensor, values: &Tensor) {
        let (forward, backward) = match tensor {
            LayerTensor::Input => (What::Input, What::InputGradient),
            LayerTensor::Output => (What::Output, What::OutputGradient),
        };
        let module = self.0.layers.get(layer.0).map_or("", String::as_str);
        self.0.see_forward(module, forward, values);
        if !values.requires_grad() {
            return;
        }
        let (shared, name) = (Arc::clone(&self.0), module.to_owned());
        let watch = watch_gradient(values, move |gradient| shared.see_backward(&name, backward, gradient));
        if let Err(error) = watch {
            self.0.lock().problem.get_or_insert_with(|| error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tch::{Device, Kind};

    use super::*;
    use crate::model::{Inputs, ModelConfig, Network, Params, Task};
    use crate::ops::Kernels;

    /// Runs a small network forward and backward with a finder, after `damage` has changed the parameters, and returns what
    /// was found. The gradient of the output is multiplied by `factor`.
    fn found(
        recomputes: bool,
        images: &Tensor,
        damage: impl Fn(&str, &mut Tensor),
        factor: f64,
    ) -> (Option<Finding>, Option<Finding>) {
        let config = ModelConfig {
            image_size: 8,
            image_channels: 1,
            num_classes: None,
            num_channels: 32,
            num_res_blocks: 1,
            channel_mult: Some(vec![1.0]),
            attention_resolutions: vec![8],
            num_head_channels: Some(16),
            use_checkpoint: recomputes,
            ..ModelConfig::default()
        };
        let spec = config.spec(Task::Diffusion, false).unwrap();
        let (network, specs) = Network::build(&spec);
        let values = specs.iter().map(|spec| {
            let mut values = Tensor::ones(spec.shape.as_slice(), (Kind::Float, Device::Cpu)) * 0.05;
            damage(&spec.name, &mut values);
            values.set_requires_grad(true)
        });
        let finder = Finder::new(&specs);
        let params = Params::new(values.collect()).with_probe(Arc::new(finder.clone()));
        finder.begin(Pass { rank: 0, number: 0, indices: vec![10, 11], timesteps: vec![3, 4] });
        let timesteps = Tensor::from_slice(&[3.0f32, 4.0]);
        let inputs = Inputs { x: images, timesteps: &timesteps, labels: None, low_res: None };
        let y = network.forward(&Kernels::cpu(), &params, &inputs, Some(1));
        (y.sum(Kind::Float) * factor).backward();
        finder.found().unwrap()
    }

    fn images() -> Tensor {
        (Tensor::arange(128, (Kind::Float, Device::Cpu)) / 64.0 - 1.0).view([2, 1, 8, 8])
    }

    #[test]
    fn the_layer_of_a_damaged_weight_is_named_forward_with_and_without_recomputation() {
        for recomputes in [false, true] {
            for layer in ["input_blocks.1.0.in_layers.2", "middle_block.1.qkv", "time_embed.2", "out.0", "out.2"] {
                let damage = |name: &str, values: &mut Tensor| {
                    if name == format!("{layer}.weight") {
                        let _ = values.flatten(0, -1).narrow(0, 0, 1).fill_(f64::INFINITY);
                    }
                };
                let (forward, _) = found(recomputes, &images(), damage, 1.0);
                let forward = forward.unwrap();
                assert_eq!((forward.module.as_str(), forward.tensor), (layer, What::Output), "{forward}");
                assert!(forward.input_range.is_some());
            }
        }
    }

    #[test]
    fn nothing_is_found_in_a_network_that_is_whole() {
        for recomputes in [false, true] {
            let (forward, backward) = found(recomputes, &images(), |_, _| {}, 1.0);
            assert_eq!((forward, backward), (None, None));
        }
    }

    #[test]
    fn the_sample_of_a_damaged_image_is_named() {
        let images = images();
        let _ = images.get(1).flatten(0, -1).narrow(0, 5, 1).fill_(f64::NAN);
        let (forward, _) = found(false, &images, |_, _| {}, 1.0);
        let forward = forward.unwrap();
        assert_eq!((forward.module.as_str(), forward.tensor), ("input_blocks.0.0", What::Input), "{forward}");
        assert_eq!(forward.sample.map(|sample| (sample.position, sample.index)), Some((1, 11)));
        assert_eq!(forward.first, [1, 0, 0, 5]);
    }

    #[test]
    fn the_layer_whose_gradient_overflows_is_named_backward() {
        for recomputes in [false, true] {
            // Forward stays finite: the product with an infinite factor only makes the gradient infinite.
            let (forward, backward) = found(recomputes, &images(), |_, _| {}, f64::INFINITY);
            let backward = backward.unwrap();
            assert_eq!(forward, None);
            assert_eq!((backward.module.as_str(), backward.tensor), ("out.2", What::OutputGradient), "{backward}");
            // Large weights, by which backward multiplies a large gradient.
            let damage = |name: &str, values: &mut Tensor| {
                if name == "out.2.weight" {
                    let _ = values.fill_(1e20);
                }
            };
            let (forward, backward) = found(recomputes, &images(), damage, 1e25);
            assert_eq!(forward, None);
            let backward = backward.unwrap();
            assert_eq!((backward.module.as_str(), backward.tensor), ("out.2", What::InputGradient), "{backward}");
            assert_eq!(backward.sample.map(|sample| sample.position), Some(0), "{backward}");
            assert_eq!(backward.after.as_deref(), Some("the gradient of the output of out.2"));
        }
    }
}
