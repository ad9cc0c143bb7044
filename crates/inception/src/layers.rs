//! The convolutions of the network.

/// A convolution without bias, followed by batch normalization (epsilon 1e-3) and ReLU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convolution {
    /// The name of the layer in state dicts: `Mixed_5b.branch5x5_1`.
    pub name: String,
    /// The name of the layer in TensorFlow's graph: `mixed/tower/conv`.
    pub node: String,
    /// The height and width of the maps that it convolves.
    pub side: usize,
    /// The number of input channels.
    pub inputs: usize,
    /// The number of output channels.
    pub outputs: usize,
    /// The height and width of the kernel.
    pub kernel: [usize; 2],
    /// The step in both directions.
    pub stride: usize,
    /// The rows and columns of zeros on each side.
    pub padding: [usize; 2],
}

/// How a layer treats the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Border {
    /// Zeros keep the size.
    Same,
    /// There are no zeros.
    Valid,
}

use Border::{Same, Valid};

/// A row: names in the state dict and in the graph, outputs, kernel, stride, border. The inputs are those of the
/// block if the row begins a branch, otherwise the outputs of the row before it.
type Row = (&'static str, &'static str, usize, [usize; 2], usize, Border);

/// The layers before the blocks, with the height and width of their maps.
const STEM: [(usize, Row); 5] = [
    (299, ("Conv2d_1a_3x3", "conv", 32, [3, 3], 2, Valid)),
    (149, ("Conv2d_2a_3x3", "conv_1", 32, [3, 3], 1, Valid)),
    (147, ("Conv2d_2b_3x3", "conv_2", 64, [3, 3], 1, Same)),
    (73, ("Conv2d_3b_1x1", "conv_3", 80, [1, 1], 1, Valid)),
    (73, ("Conv2d_4a_3x3", "conv_4", 192, [3, 3], 1, Valid)),
];

/// A block of branches on 35 x 35.
fn block_35(pooled: usize) -> Vec<Vec<Row>> {
    vec![
        vec![("branch1x1", "conv", 64, [1, 1], 1, Same)],
        vec![("branch5x5_1", "tower/conv", 48, [1, 1], 1, Same), ("branch5x5_2", "tower/conv_1", 64, [5, 5], 1, Same)],
        vec![
            ("branch3x3dbl_1", "tower_1/conv", 64, [1, 1], 1, Same),
            ("branch3x3dbl_2", "tower_1/conv_1", 96, [3, 3], 1, Same),
            ("branch3x3dbl_3", "tower_1/conv_2", 96, [3, 3], 1, Same),
        ],
        vec![("branch_pool", "tower_2/conv", pooled, [1, 1], 1, Same)],
    ]
}

/// The block from 35 x 35 to 17 x 17.
fn reduce_35() -> Vec<Vec<Row>> {
    vec![
        vec![("branch3x3", "conv", 384, [3, 3], 2, Valid)],
        vec![
            ("branch3x3dbl_1", "tower/conv", 64, [1, 1], 1, Same),
            ("branch3x3dbl_2", "tower/conv_1", 96, [3, 3], 1, Same),
            ("branch3x3dbl_3", "tower/conv_2", 96, [3, 3], 2, Valid),
        ],
    ]
}

/// A block of branches on 17 x 17, with `c` channels inside the branches of 7 x 7.
fn block_17(c: usize) -> Vec<Vec<Row>> {
    vec![
        vec![("branch1x1", "conv", 192, [1, 1], 1, Same)],
        vec![
            ("branch7x7_1", "tower/conv", c, [1, 1], 1, Same),
            ("branch7x7_2", "tower/conv_1", c, [1, 7], 1, Same),
            ("branch7x7_3", "tower/conv_2", 192, [7, 1], 1, Same),
        ],
        vec![
            ("branch7x7dbl_1", "tower_1/conv", c, [1, 1], 1, Same),
            ("branch7x7dbl_2", "tower_1/conv_1", c, [7, 1], 1, Same),
            ("branch7x7dbl_3", "tower_1/conv_2", c, [1, 7], 1, Same),
            ("branch7x7dbl_4", "tower_1/conv_3", c, [7, 1], 1, Same),
            ("branch7x7dbl_5", "tower_1/conv_4", 192, [1, 7], 1, Same),
        ],
        vec![("branch_pool", "tower_2/conv", 192, [1, 1], 1, Same)],
    ]
}

/// The block from 17 x 17 to 8 x 8.
fn reduce_17() -> Vec<Vec<Row>> {
    vec![
        vec![
            ("branch3x3_1", "tower/conv", 192, [1, 1], 1, Same),
            ("branch3x3_2", "tower/conv_1", 320, [3, 3], 2, Valid),
        ],
        vec![
            ("branch7x7x3_1", "tower_1/conv", 192, [1, 1], 1, Same),
            ("branch7x7x3_2", "tower_1/conv_1", 192, [1, 7], 1, Same),
            ("branch7x7x3_3", "tower_1/conv_2", 192, [7, 1], 1, Same),
            ("branch7x7x3_4", "tower_1/conv_3", 192, [3, 3], 2, Valid),
        ],
    ]
}

/// A block of branches on 8 x 8. Two branches end in two convolutions of the same input: the name of the second one
/// ends in `b`.
fn block_8() -> Vec<Vec<Row>> {
    vec![
        vec![("branch1x1", "conv", 320, [1, 1], 1, Same)],
        vec![
            ("branch3x3_1", "tower/conv", 384, [1, 1], 1, Same),
            ("branch3x3_2a", "tower/mixed/conv", 384, [1, 3], 1, Same),
            ("branch3x3_2b", "tower/mixed/conv_1", 384, [3, 1], 1, Same),
        ],
        vec![
            ("branch3x3dbl_1", "tower_1/conv", 448, [1, 1], 1, Same),
            ("branch3x3dbl_2", "tower_1/conv_1", 384, [3, 3], 1, Same),
            ("branch3x3dbl_3a", "tower_1/mixed/conv", 384, [1, 3], 1, Same),
            ("branch3x3dbl_3b", "tower_1/mixed/conv_1", 384, [3, 1], 1, Same),
        ],
        vec![("branch_pool", "tower_2/conv", 192, [1, 1], 1, Same)],
    ]
}

/// Returns the 94 convolutions, in the order in which the network applies them.
#[must_use]
pub fn convolutions() -> Vec<Convolution> {
    let mut found = Vec::new();
    let mut inputs = 3;
    for (side, row) in STEM {
        found.push(convolution(row, side, inputs, "", ""));
        inputs = row.2;
    }
    let blocks = [
        ("Mixed_5b", "mixed", 35, 192, block_35(32)),
        ("Mixed_5c", "mixed_1", 35, 256, block_35(64)),
        ("Mixed_5d", "mixed_2", 35, 288, block_35(64)),
        ("Mixed_6a", "mixed_3", 35, 288, reduce_35()),
        ("Mixed_6b", "mixed_4", 17, 768, block_17(128)),
        ("Mixed_6c", "mixed_5", 17, 768, block_17(160)),
        ("Mixed_6d", "mixed_6", 17, 768, block_17(160)),
        ("Mixed_6e", "mixed_7", 17, 768, block_17(192)),
        ("Mixed_7a", "mixed_8", 17, 768, reduce_17()),
        ("Mixed_7b", "mixed_9", 8, 1280, block_8()),
        ("Mixed_7c", "mixed_10", 8, 2048, block_8()),
    ];
    for (block, node, side, inputs, branches) in blocks {
        for branch in branches {
            // The inputs of the next row.
            let mut channels = inputs;
            let mut before = inputs;
            for row in branch {
                // The second of two ends has the inputs of the first.
                if !row.0.ends_with('b') {
                    before = channels;
                }
                found.push(convolution(row, side, before, &format!("{block}."), &format!("{node}/")));
                channels = row.2;
            }
        }
    }
    found
}

fn convolution(row: Row, side: usize, inputs: usize, prefix: &str, scope: &str) -> Convolution {
    let (name, node, outputs, kernel, stride, border) = row;
    let padding = match border {
        Same => kernel.map(|length| length / 2),
        Valid => [0, 0],
    };
    let (name, node) = (format!("{prefix}{name}"), format!("{scope}{node}"));
    Convolution { name, node, side, inputs, outputs, kernel, stride, padding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_94_convolutions_and_two_ends_share_their_input() {
        let all = convolutions();
        assert_eq!(all.len(), 94);
        let inputs = |name: &str| all.iter().find(|layer| layer.name == name).map(|layer| layer.inputs);
        assert_eq!(inputs("Mixed_7c.branch3x3dbl_3a"), Some(384));
        assert_eq!(inputs("Mixed_7c.branch3x3dbl_3b"), Some(384));
        assert_eq!(inputs("Mixed_7b.branch3x3_2b"), Some(384));
        assert_eq!(inputs("Mixed_7b.branch_pool"), Some(1280));
        assert_eq!(inputs("Mixed_6a.branch3x3dbl_1"), Some(288));
    }
}
