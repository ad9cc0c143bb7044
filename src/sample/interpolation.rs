//! Images between two images: decodings of latents between theirs (the paper's appendix F).

use tch::{Kind, Tensor};

use crate::diffusion::{GuidedModel, SolverPlan, Trajectory, interpolate, interpolated_classifier_gradient};
use crate::model::Inputs;

use super::inversion::Inversion;
use super::stage::Weights;

/// Draws images between two images.
#[derive(Debug, Clone, Copy)]
pub struct Interpolation<'a> {
    /// Encodes the two images. Its network also decodes.
    pub inversion: Inversion<'a>,
    /// Decodes: DDIM without noise, on the timesteps of `inversion`.
    pub solver: &'a SolverPlan,
    /// A classifier that guides the decoding, and the factor of its gradient.
    pub classifier: Option<(Weights<'a>, f64)>,
    /// The number of images decoded together.
    pub batch_size: usize,
}

impl Interpolation<'_> {
    /// Returns an image for each angle, `[angles, channels, height, width]`, approximately in [-1, 1], on the device.
    ///
    /// `images` are the two ends a and b, `[2, channels, height, width]`, in [-1, 1], and `labels` their classes, `[2]`,
    /// int64. At angle θ the latent is cos(θ) a + sin(θ) b. Class embeddings and log probabilities of the classifier are
    /// combined in the same way.
    ///
    /// # Panics
    /// If there are no classes, and the network or a classifier needs them.
    pub fn between(&self, images: &Tensor, labels: Option<&Tensor>, thetas: &[f64]) -> Tensor {
        let latents = self.inversion.encode(images, labels);
        let batches: Vec<Tensor> =
            thetas.chunks(self.batch_size).map(|thetas| self.decode(&latents, labels, thetas)).collect();
        Tensor::cat(&batches, 0)
    }

    fn decode(&self, latents: &Tensor, labels: Option<&Tensor>, thetas: &[f64]) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let Inversion { model, kernels, .. } = self.inversion;
        let labels = labels.map(|labels| labels.to_device(kernels.device()));
        // Both ends for each angle.
        let ends = |both: &Tensor| {
            [0, 1].map(|end| {
                let mut shape = both.size();
                shape[0] = thetas.len() as i64;
                both.narrow(0, end, 1).expand(shape.as_slice(), false).contiguous()
            })
        };
        let mixed = |both: &Tensor| {
            let [a, b] = ends(both);
            interpolate(thetas, &a, &b)
        };
        let embeddings = labels.as_ref().and_then(|labels| model.network.class_embedding(model.params, labels));
        let classes = embeddings.map(|rows| mixed(&rows.to_kind(Kind::Float)));
        let run = |weights: Weights<'_>, x: &Tensor, timesteps: &Tensor, labels: Option<&Tensor>| {
            let inputs = Inputs { x, timesteps, labels, low_res: None };
            weights.network.forward(kernels, weights.params, &inputs, None)
        };
        let predict = |x: &Tensor, timesteps: &Tensor| run(model, x, timesteps, classes.as_ref());
        let gradient = self.classifier.map(|(classifier, scale)| {
            let [a, b] = ends(labels.as_ref().expect("images that a classifier guides have classes"));
            move |x: &Tensor, timesteps: &Tensor| {
                let logits = |x: &Tensor, timesteps: &Tensor| run(classifier, x, timesteps, None);
                interpolated_classifier_gradient(&logits, [&a, &b], thetas, scale, x, timesteps)
            }
        });
        let guided = match &gradient {
            Some(gradient) => GuidedModel { predict: &predict, gradient: Some(gradient) },
            None => GuidedModel::unguided(&predict),
        };
        let x_last = mixed(latents);
        // DDIM without noise draws none.
        let mut noise = |_step| x_last.zeros_like();
        Trajectory::new(self.solver.start(), guided, &x_last, &mut noise).finish()
    }
}
