//! Reads arbitrary bytes as a safetensors file, with the reader of checkpoints and the reader of imports. Both must
//! agree.
#![no_main]

use std::io::Cursor;

use admiral_checkpoints_schema::safetensors::values_of;
use admiral_checkpoints_schema::{Dtype, Role, TensorRecord};
use admiral_torch_files::{Dtype as FileDtype, StateDict};
use libfuzzer_sys::fuzz_target;

fn record(name: &str, shape: &[usize]) -> TensorRecord {
    let (name, shape) = (name.to_owned(), shape.to_vec());
    TensorRecord { role: Role::Master, name, file: String::new(), shape, dtype: Dtype::F32 }
}

fuzz_target!(|bytes: &[u8]| {
    let wanted = record("weight", &[3, 4]);
    let found = values_of(bytes, &[&wanted]);
    if let Ok(found) = &found {
        assert_eq!(found[0].len(), 48);
    }
    // Archives and old files are covered by the target `state_dict`.
    if bytes.get(8) != Some(&b'{') {
        return;
    }
    let Ok(mut state) = StateDict::open(Cursor::new(bytes)) else { return };
    for index in 0..state.tensors().len() {
        let tensor = state.tensors()[index].clone();
        let Ok(values) = state.read(index) else { continue };
        if tensor.dtype == FileDtype::F32 {
            let record = record(&tensor.name, &tensor.shape);
            assert_eq!(values_of(bytes, &[&record]), Ok(vec![values.as_slice()]));
        }
    }
});
