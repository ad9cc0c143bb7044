//! Files that the writer writes are read back. `make interchange` tests that PyTorch reads them.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};

use admiral_torch_files::{Dtype, Error, StateDict, TensorSpec, Writer};

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.into() }
}

#[test]
fn written_tensors_are_read_back_and_aligned() {
    let specs = [
        spec("weight", Dtype::F32, &[3, 1, 2]),
        spec("half", Dtype::F16, &[5]),
        spec("scalar", Dtype::F32, &[]),
        spec("empty", Dtype::F32, &[0, 7]),
        spec("名前", Dtype::F32, &[70_000]),
    ];
    let bytes = |spec: &TensorSpec| -> Vec<u8> {
        (0..spec.shape.iter().product::<usize>() * spec.dtype.size()).map(|i| ((i * 7919) >> 3) as u8).collect()
    };
    let mut writer = Writer::new(Cursor::new(Vec::new()), &specs).unwrap();
    for spec in &specs {
        writer.tensor(bytes(spec).chunks(1000)).unwrap();
    }
    let file = writer.finish().unwrap().into_inner();
    let mut state = StateDict::open(Cursor::new(&file)).unwrap();
    for (index, spec) in specs.iter().enumerate() {
        let tensor = &state.tensors()[index];
        assert_eq!((&tensor.name, tensor.dtype, &tensor.shape), (&spec.name, spec.dtype, &spec.shape));
        let values = state.read(index).unwrap();
        assert_eq!(values, bytes(spec), "{}", spec.name);
        if values.len() > 4 {
            assert_eq!(
                file.windows(values.len()).position(|window| window == values).unwrap() % 64,
                0,
                "{}",
                spec.name
            );
        }
    }
    assert_eq!(state.tensors().len(), specs.len());
}

#[test]
fn tensors_that_differ_from_the_announcement_are_refused() {
    let specs = [spec("weight", Dtype::F32, &[2])];
    let writer = || Writer::new(Cursor::new(Vec::new()), &specs).unwrap();
    let message = |error: Error| error.to_string();
    assert!(message(writer().tensor([[0; 4]].iter()).unwrap_err()).contains("weight"));
    assert!(message(writer().finish().map(drop).unwrap_err()).contains("weight"));
    let mut full = writer();
    full.tensor([[0; 8]].iter()).unwrap();
    assert!(message(full.tensor([[0; 8]].iter()).unwrap_err()).contains("only 1"));
    let long = Writer::new(Cursor::new(Vec::new()), &[spec("steps", Dtype::I64, &[])]);
    assert!(message(long.map(drop).unwrap_err()).contains("I64"));
}

/// A file that skips over zeros, so that they take no space on disk.
struct Sparse(File);

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > 4096 && bytes.iter().all(|&byte| byte == 0) {
            self.0.seek(SeekFrom::Current(bytes.len() as i64))?;
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Sparse {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

#[test]
fn lengths_and_offsets_beyond_4_gib_are_supported() {
    let file = tempfile::tempfile().unwrap();
    let specs = [spec("large", Dtype::F32, &[1025, 1 << 20]), spec("after", Dtype::F32, &[2])];
    let mut writer = Writer::new(Sparse(file), &specs).unwrap();
    let zeros = vec![0; 4 << 20];
    writer.tensor((0..1025).map(|_| &zeros)).unwrap();
    writer.tensor(std::iter::once([1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
    let mut state = StateDict::open(writer.finish().unwrap().0).unwrap();
    assert_eq!(state.tensors()[0].shape, [1025, 1 << 20]);
    assert_eq!(state.read(1).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8]);
}
