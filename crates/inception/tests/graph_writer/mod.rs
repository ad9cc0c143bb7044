//! Writes graphs as TensorFlow does.

use admiral_inception::{Weights, convolutions};

/// How the values of a tensor are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All bytes in one field.
    Content,
    /// Packed floats.
    Floats,
    /// A field for each float.
    SingleFloats,
}

/// A graph whose nodes have names.
#[derive(Debug, Clone, Default)]
pub struct GraphWriter {
    nodes: Vec<(String, Vec<u8>)>,
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn bytes_field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint_field(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn float_field(number: u64, value: f32) -> Vec<u8> {
    [varint(number << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

fn attribute(name: &str, value: &[u8]) -> Vec<u8> {
    bytes_field(5, &[bytes_field(1, name.as_bytes()), bytes_field(2, value)].concat())
}

impl GraphWriter {
    fn node(&mut self, name: &str, operation: &str, attributes: &[Vec<u8>]) {
        let head = [bytes_field(1, name.as_bytes()), bytes_field(2, operation.as_bytes())].concat();
        let node = bytes_field(1, &[head, attributes.concat()].concat());
        match self.nodes.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = node,
            None => self.nodes.push((name.to_owned(), node)),
        }
    }

    /// Adds or replaces a tensor.
    pub fn constant(&mut self, name: &str, shape: &[usize], values: &[f32], form: Form) {
        let dimensions: Vec<u8> = shape.iter().flat_map(|&n| bytes_field(2, &varint_field(1, n as u64))).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let values = match form {
            Form::Content => bytes_field(4, &bytes),
            Form::Floats => bytes_field(5, &bytes),
            Form::SingleFloats => values.iter().flat_map(|&value| float_field(5, value)).collect(),
        };
        let tensor = [varint_field(1, 1), bytes_field(2, &dimensions), values].concat();
        let kind = attribute("dtype", &varint_field(6, 1));
        self.node(name, "Const", &[kind, attribute("value", &bytes_field(8, &tensor))]);
    }

    /// Adds or replaces a batch normalization.
    pub fn normalization(&mut self, name: &str, epsilon: f32, is_scaled: bool) {
        let attributes = [
            attribute("T", &varint_field(6, 1)),
            attribute("variance_epsilon", &float_field(4, epsilon)),
            attribute("scale_after_normalization", &varint_field(5, u64::from(is_scaled))),
        ];
        self.node(name, "BatchNormWithGlobalNormalization", &attributes);
    }

    /// Removes a node.
    pub fn remove(&mut self, name: &str) {
        self.nodes.retain(|(other, _)| other != name);
    }

    /// Returns the bytes of the file.
    pub fn finish(self) -> Vec<u8> {
        let versions = bytes_field(4, &varint_field(1, 8));
        self.nodes.into_iter().flat_map(|(_, node)| node).chain(versions).collect()
    }
}

/// The graph of the network. Forms alternate if `mixed` is set.
pub fn graph_of(weights: &Weights, mixed: bool) -> GraphWriter {
    let mut graph = GraphWriter::default();
    graph.node("image", "Placeholder", &[attribute("dtype", &varint_field(6, 1))]);
    let mut next = 0;
    let mut form = || {
        next += 1;
        if mixed { [Form::Content, Form::Floats, Form::SingleFloats][next % 3] } else { Form::Content }
    };
    for layer in convolutions() {
        let weight = weights.get(&format!("{}.conv.weight", layer.name)).unwrap();
        let [height, width] = layer.kernel;
        let mut values = Vec::with_capacity(weight.len());
        for position in 0..height * width {
            for input in 0..layer.inputs {
                let of = |output: usize| weight[(output * layer.inputs + input) * height * width + position];
                values.extend((0..layer.outputs).map(of));
            }
        }
        let shape = [height, width, layer.inputs, layer.outputs];
        graph.constant(&format!("{}/conv2d_params", layer.node), &shape, &values, form());
        let normalization = format!("{}/batchnorm", layer.node);
        for (part, in_graph) in
            [("running_mean", "moving_mean"), ("running_var", "moving_variance"), ("bias", "beta"), ("weight", "gamma")]
        {
            let values = weights.get(&format!("{}.bn.{part}", layer.name)).unwrap();
            graph.constant(&format!("{normalization}/{in_graph}"), &[layer.outputs], values, form());
        }
        graph.normalization(&normalization, 0.001, true);
    }
    if let (Some(weight), Some(bias)) = (weights.get("fc.weight"), weights.get("fc.bias")) {
        let columns = weight.len() / bias.len();
        let transposed: Vec<f32> =
            (0..columns).flat_map(|column| (0..bias.len()).map(move |row| weight[row * columns + column])).collect();
        graph.constant("softmax/weights", &[columns, bias.len()], &transposed, form());
        graph.constant("softmax/biases", &[bias.len()], bias, form());
    }
    graph
}
