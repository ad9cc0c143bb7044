//! The interface of all solvers: one value solves the reverse process for one batch of images, step by step.

use tch::{Kind, Tensor};

use super::super::process::Model;
use super::levels::Level;
use crate::diffusion::Gradient;

/// A network and what guides it.
#[derive(Clone, Copy)]
pub struct GuidedModel<'a> {
    /// The network's output, with the variance channels if the variance is learned.
    pub predict: &'a Model<'a>,
    /// The gradient of a classifier, times the guidance scale.
    pub gradient: Option<&'a Gradient<'a>>,
}

impl<'a> GuidedModel<'a> {
    /// A network without a classifier.
    #[must_use]
    pub fn unguided(predict: &'a Model<'a>) -> Self {
        Self { predict, gradient: None }
    }
}

/// The result of a step.
#[derive(Debug)]
pub struct Step {
    /// The state after the step, `[batch, channels, height, width]`. That of the last step is the images.
    pub sample: Tensor,
    /// The x_0 that was predicted last in the step, of the same shape.
    pub x_start: Tensor,
    /// What the step adds to the first-order step from the same state, of the same shape. `None` for steps of first
    /// order.
    pub correction: Option<Tensor>,
}

impl Step {
    /// Estimates the local error of a first-order step, `[batch]`: the norm of the correction relative to that of the
    /// sample. 0 for steps of first order.
    ///
    /// Where it nears 1, the step is outside the range in which a higher order helps: large guidance scales do this,
    /// and more steps or a lower order give better images.
    pub fn relative_correction(&self) -> Tensor {
        let norm = |tensor: &Tensor| tensor.flatten(1, -1).to_kind(Kind::Float).norm_scalaropt_dim(2, [1i64], false);
        match &self.correction {
            Some(correction) => norm(correction) / norm(&self.sample),
            None => norm(&self.sample).zeros_like(),
        }
    }
}

/// A solver of the reverse process. It holds the history of one batch, so each batch has its own value, and its steps
/// are taken once, in order.
pub trait Solver {
    /// The noise levels from the start to the end: step i leads from level i to level i + 1.
    fn levels(&self) -> &[Level];

    /// The number of steps.
    fn num_steps(&self) -> usize {
        self.levels().len() - 1
    }

    /// The number of evaluations of the network in all steps.
    fn num_evaluations(&self) -> usize;

    /// The order with which step `index` is taken: the number of evaluations that the step is computed from.
    fn order(&self, index: usize) -> usize;

    /// Whether step `index` uses noise.
    fn uses_noise(&self, index: usize) -> bool;

    /// Takes step `index` from the state `x`, `[batch, channels, height, width]`. States are those of the
    /// variance-preserving process; the first is standard normal noise.
    ///
    /// `noise` returns the standard normal noise of a step, of the shape of `x`. It is called with `index` where
    /// [`uses_noise`](Self::uses_noise) says so, and nowhere else.
    fn step(&mut self, index: usize, x: &Tensor, model: &GuidedModel, noise: &mut dyn FnMut(usize) -> Tensor) -> Step;
}

/// Starts a solver for each batch. The coefficients are shared.
pub(super) type Factory = Box<dyn Fn() -> Box<dyn Solver>>;
