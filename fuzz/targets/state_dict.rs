//! Reads arbitrary bytes as a PyTorch file: the archive, the old format, the pickle machine, and every tensor.
#![no_main]

use std::io::Cursor;

use admiral_torch_files::StateDict;
use libfuzzer_sys::fuzz_target;

/// The largest number of bytes that are read from one input, because many tensors may share one storage.
const MAX_READ: usize = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut state) = StateDict::open(Cursor::new(bytes)) else { return };
    let mut read = 0;
    for index in 0..state.tensors().len() {
        let tensor = state.tensors()[index].clone();
        let length = tensor.num_elements() * tensor.dtype.size();
        assert!(length <= bytes.len(), "a tensor is larger than its file");
        read += length;
        if read > MAX_READ {
            return;
        }
        let Ok(values) = state.read(index) else { continue };
        assert_eq!(values.len(), length);
        let mut as_f32 = vec![0.0; tensor.num_elements()];
        assert!(state.read_f32(index, &mut as_f32).is_ok(), "a tensor that can be read can also be converted");
    }
});
