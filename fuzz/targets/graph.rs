//! Reads arbitrary bytes as a TensorFlow graph: every node, its attributes, and every tensor.
#![no_main]

use admiral_inception::Graph;
use libfuzzer_sys::fuzz_target;

/// The largest number of values that are read from one input, because a single value may stand for all of a tensor.
const MAX_VALUES: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = Graph::open(bytes) else { return };
    let mut read = 0;
    for name in graph.constants() {
        let _ = (graph.float(name, "variance_epsilon"), graph.boolean(name, "scale_after_normalization"));
        let Ok(Some(constant)) = graph.constant(name) else { continue };
        let count = constant.shape().iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        read = count.and_then(|count| count.checked_add(read)).unwrap_or(usize::MAX);
        if read > MAX_VALUES {
            return;
        }
        if let Ok(values) = constant.values() {
            assert_eq!(Some(values.len()), count);
        }
    }
});
