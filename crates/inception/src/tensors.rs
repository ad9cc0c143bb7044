//! The tensors of the network.

use crate::layers::convolutions;

/// The number of pooled features of an image.
pub const POOL: usize = 2048;
/// The number of classes of the last layer.
pub const CLASSES: usize = 1008;

/// The name and the shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    /// The name in state dicts: `Conv2d_1a_3x3.conv.weight`.
    pub name: String,
    /// The shape. A convolution has outputs, inputs, height, width.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Returns the number of values.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor belongs to the last layer, which a file may leave out.
    #[must_use]
    pub fn is_last_layer(&self) -> bool {
        self.name.starts_with("fc.")
    }
}

/// Returns the 472 tensors, in the order in which the network applies them. The last two are `fc.weight` and `fc.bias`.
#[must_use]
pub fn tensors() -> Vec<TensorShape> {
    let mut found = Vec::new();
    let mut push = |name: String, shape: &[usize]| found.push(TensorShape { name, shape: shape.to_vec() });
    for layer in convolutions() {
        push(format!("{}.conv.weight", layer.name), &[layer.outputs, layer.inputs, layer.kernel[0], layer.kernel[1]]);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            push(format!("{}.bn.{part}", layer.name), &[layer.outputs]);
        }
    }
    push("fc.weight".into(), &[CLASSES, POOL]);
    push("fc.bias".into(), &[CLASSES]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_472_tensors_of_24_million_values() {
        let all = tensors();
        assert_eq!(all.len(), 472);
        // The trainable parameters of Inception-v3 with 1008 classes and without the auxiliary classifier, and the
        // running means and variances of 17,216 channels.
        assert_eq!(all.iter().map(TensorShape::num_elements).sum::<usize>(), 23_885_392);
    }
}
