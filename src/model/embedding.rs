//! The embedding of the timestep and the class in one vector.

use tch::{Kind, Tensor};

use super::layers::{Builder, Linear, Start};
use super::params::{Init, ParamId, Params};

const MAX_PERIOD: f64 = 10_000.0;

/// The sinusoidal embedding of `timesteps` (`[batch]`, may be fractional): `[batch, dim]`, float32. The cosines come
/// before the sines, at `dim / 2` frequencies that decrease geometrically from 1 to almost `1 / 10000`. If `dim` is
/// odd, the last value is 0.
pub fn timestep_embedding(timesteps: &Tensor, dim: i64) -> Tensor {
    let half = dim / 2;
    let options = (Kind::Float, timesteps.device());
    let frequencies = (Tensor::arange(half, options) * (-MAX_PERIOD.ln()) / half as f64).exp();
    let angles = timesteps.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
    let mut parts = vec![angles.cos(), angles.sin()];
    if dim % 2 == 1 {
        parts.push(Tensor::zeros([timesteps.size()[0], 1], options));
    }
    Tensor::cat(&parts, 1)
}

/// The two-layer network on the timestep embedding, and the class embedding that is added to its output.
#[derive(Debug, Clone)]
pub struct Embedding {
    model_channels: i64,
    first: Linear,
    second: Linear,
    label: Option<ParamId>,
}

impl Embedding {
    /// Registers `time_embed.*` and, with classes, `label_emb.weight [classes, 4 * model_channels]`.
    pub fn build(builder: &mut Builder<'_>, model_channels: i64, num_classes: Option<i64>) -> Self {
        let width = embedding_width(model_channels);
        let mut time = builder.sub("time_embed");
        let first = Linear::build(time.sub(0), [model_channels, width], Start::Default);
        let second = Linear::build(time.sub(2), [width, width], Start::Default);
        let label = num_classes
            .map(|classes| builder.sub("label_emb").param("weight", &[classes, width], Init::Normal { std: 1.0 }));
        Self { model_channels, first, second, label }
    }

    /// Returns the `SiLU` of the embedding, `[batch, 4 * model_channels]`. Every residual block starts with this SiLU,
    /// so it is computed once. `classes` is used only if the network has classes: labels, `[batch]`, int64, or class
    /// embeddings, `[batch, 4 * model_channels]`, float32.
    ///
    /// # Panics
    /// If the network has classes and `classes` is `None`, because a default class would be trained or sampled silently.
    pub fn forward(&self, params: &Params, timesteps: &Tensor, classes: Option<&Tensor>) -> Tensor {
        let hidden = self.first.forward(params, &timestep_embedding(timesteps, self.model_channels)).silu();
        let mut embedding = self.second.forward(params, &hidden);
        if let Some(table) = self.label {
            let classes = classes.expect("a class-conditional network is given the class of each image");
            embedding += if classes.kind() == Kind::Float {
                assert_eq!(classes.size(), embedding.size(), "shape of the class embeddings");
                classes.shallow_clone()
            } else {
                rows(params, table, classes)
            };
        }
        embedding.silu()
    }

    /// Returns the class embeddings of `labels`, `[batch]`, int64: `[batch, 4 * model_channels]`, float32. `None` for a
    /// network without classes.
    pub fn of_classes(&self, params: &Params, labels: &Tensor) -> Option<Tensor> {
        self.label.map(|table| rows(params, table, labels))
    }

    /// Float32 elements saved for backward for one image: the inputs of both layers and of both `SiLU`, and the final
    /// output, which is the input of every residual block.
    pub fn saved_elements(&self) -> i64 {
        self.model_channels + 4 * embedding_width(self.model_channels)
    }

    /// FLOPs for one image.
    pub fn flops(&self) -> u64 {
        self.first.flops(1) + self.second.flops(1)
    }
}

/// Returns the rows of the class embedding that the labels name.
fn rows(params: &Params, table: ParamId, labels: &Tensor) -> Tensor {
    params.probed(table, labels, |labels| Tensor::embedding(params.get(table), labels, -1, false, false))
}

/// The length of the embedding vector.
pub fn embedding_width(model_channels: i64) -> i64 {
    4 * model_channels
}
