//! The tensors of the network in TensorFlow's graph.

use crate::graph::Graph;
use crate::layers::{Convolution, convolutions};
use crate::read::{Problem, Values, shape_problem};
use crate::tensors::{CLASSES, POOL};

/// The epsilon of batch normalization.
const EPSILON: f32 = 1e-3;

/// The parts of a batch normalization: in state dicts, and in the graph.
const PARTS: [(&str, &str); 4] =
    [("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")];

/// Whether a file that begins with these bytes may be a graph: its first field is a node.
pub(crate) fn is_graph(start: &[u8]) -> bool {
    start.first() == Some(&0x0a)
}

/// Reads the weights from the bytes of a graph file.
pub(crate) fn read(bytes: &[u8]) -> Result<Values, Problem> {
    let graph = Graph::open(bytes).map_err(Problem::Damaged)?;
    let mut values = Values::default();
    for layer in convolutions() {
        read_convolution(&graph, &layer, &mut values)?;
    }
    let has_classes = graph.constants().any(|name| name.starts_with("softmax/"));
    if has_classes {
        let weight = constant(&graph, "softmax/weights", &[POOL, CLASSES], &mut values)?;
        values.insert("fc.weight", weight.map(|weight| transposed(&weight, POOL, CLASSES)));
        let bias = constant(&graph, "softmax/biases", &[CLASSES], &mut values)?;
        values.insert("fc.bias", bias);
    }
    Ok(values)
}

fn read_convolution(graph: &Graph<'_>, layer: &Convolution, values: &mut Values) -> Result<(), Problem> {
    let (name, node) = (&layer.name, &layer.node);
    let &Convolution { inputs, outputs, kernel: [height, width], .. } = layer;
    let shape = [height, width, inputs, outputs];
    let weight = constant(graph, &format!("{node}/conv2d_params"), &shape, values)?;
    // From [height, width, inputs, outputs] to [outputs, inputs, height, width].
    let weight = weight.map(|weight| {
        let by_output = transposed(&weight, height * width * inputs, outputs);
        let chunks = by_output.chunks_exact(height * width * inputs);
        chunks.flat_map(|chunk| transposed(chunk, height * width, inputs)).collect()
    });
    values.insert(&format!("{name}.conv.weight"), weight);

    let normalization = format!("{node}/batchnorm");
    let damaged = |reason: String| Problem::Damaged(format!("{normalization}: {reason}"));
    let epsilon = graph.float(&normalization, "variance_epsilon").map_err(damaged)?;
    if let Some(epsilon) = epsilon.filter(|&epsilon| epsilon != EPSILON) {
        values.difference(format!("{normalization} has variance_epsilon {epsilon}, not {EPSILON}"));
    }
    // Without this attribute the node ignores its weights.
    let is_scaled = graph.boolean(&normalization, "scale_after_normalization").map_err(damaged)? != Some(false);
    for (part, in_graph) in PARTS {
        let mut found = constant(graph, &format!("{normalization}/{in_graph}"), &[outputs], values)?;
        if part == "weight" && !is_scaled {
            found = Some(vec![1.0; outputs]);
        }
        values.insert(&format!("{name}.bn.{part}"), found);
    }
    Ok(())
}

/// Reads a constant of an expected shape. `None`, with a difference noted, if the graph does not have it.
fn constant(graph: &Graph<'_>, name: &str, shape: &[usize], values: &mut Values) -> Result<Option<Vec<f32>>, Problem> {
    let damaged = |reason: String| Problem::Damaged(format!("{name}: {reason}"));
    let Some(found) = graph.constant(name).map_err(damaged)? else {
        values.difference(format!("it has no constant {name}"));
        return Ok(None);
    };
    if found.shape() != shape {
        values.difference(shape_problem(name, found.shape(), shape));
        return Ok(None);
    }
    found.values().map(Some).map_err(damaged)
}

/// Transposes a matrix of `rows` rows.
fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(matrix.len());
    for column in 0..columns {
        result.extend((0..rows).map(|row| matrix[row * columns + column]));
    }
    result
}
