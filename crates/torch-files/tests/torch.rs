//! Tests with files that PyTorch wrote (tests/files/make.py). Readable files are compared bit by bit; the others must
//! be refused with the right reason.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use admiral_torch_files::{Dtype, Error, StateDict};
use safetensors::SafeTensors;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

fn open(name: &str) -> Result<StateDict<File>, Error> {
    StateDict::open(File::open(file(name)).unwrap())
}

/// The names of the files that have a safetensors file with their values.
fn readable() -> Vec<String> {
    let entries = std::fs::read_dir(file("")).unwrap().map(|entry| entry.unwrap().path());
    let with_values = entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let mut names: Vec<String> =
        with_values.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Checks that a file has the tensors of `expected`.
fn check_values(name: &str, expected: &str) {
    let mut state = open(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes = std::fs::read(file(&format!("{expected}.safetensors"))).unwrap();
    let expected_values = SafeTensors::deserialize(&bytes).unwrap();
    let order = std::fs::read_to_string(file(&format!("{expected}.json"))).unwrap();
    let names: Vec<String> = state.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    assert_eq!(parse_names(&order), names, "{name}");
    for index in 0..names.len() {
        let tensor = state.tensors()[index].clone();
        let expected = expected_values.tensor(&tensor.name).unwrap();
        assert_eq!(
            format!("{:?}", tensor.dtype),
            format!("{:?}", expected.dtype()).to_uppercase().replace("BOOL", "Bool")
        );
        assert_eq!(tensor.shape, expected.shape(), "{name}: {}", tensor.name);
        assert_eq!(state.read(index).unwrap(), expected.data(), "{name}: {}", tensor.name);
        let mut values = vec![0.5; tensor.num_elements()];
        state.read_f32(index, &mut values).unwrap();
        if tensor.dtype == Dtype::F32 {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(bytes, expected.data(), "{name}: {}", tensor.name);
        }
    }
}

/// Parses a JSON list of names without escapes.
fn parse_names(json: &str) -> Vec<String> {
    let inner = json.trim().trim_start_matches('[').trim_end_matches(']');
    inner.split(", ").map(|name| name.trim_matches('"').to_owned()).collect()
}

#[test]
fn pytorch_files_are_read_bit_by_bit() {
    let names = readable();
    assert!(names.len() >= 17, "{names:?}");
    for name in names {
        check_values(&format!("{name}.pt"), &name);
    }
    check_values("repacked.pt", "plain-2");
}

#[test]
fn safetensors_are_read_bit_by_bit() {
    for name in readable() {
        let bytes = std::fs::read(file(&format!("{name}.safetensors"))).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let read = read_all(&bytes).unwrap();
        assert_eq!(read.len(), expected.len(), "{name}");
        for (tensor, bytes) in read {
            assert_eq!(bytes, expected.tensor(&tensor).unwrap().data(), "{name}: {tensor}");
        }
    }
}

#[test]
fn half_and_double_are_converted_to_float32_as_in_torch() {
    let mut state = open("types.pt").unwrap();
    let values = |state: &mut StateDict<File>, name: &str| {
        let index = state.tensors().iter().position(|tensor| tensor.name == name).unwrap();
        let mut values = vec![0.0; state.tensors()[index].num_elements()];
        state.read_f32(index, &mut values).unwrap();
        values
    };
    let half = values(&mut state, "torch.float16");
    assert_eq!(half[..4], [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY]);
    assert!(half[4].is_nan() && half[1].is_sign_negative());
    assert_eq!(half[8], 0.333_251_95);
    assert_eq!(values(&mut state, "torch.bfloat16")[8], 0.333_984_38);
    assert_eq!(values(&mut state, "torch.float64")[5..8], [1e-45, 1.175_494_2e-38, 3.402_823_5e38]);
    assert_eq!(values(&mut state, "torch.int64")[3..], [-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_807.0]);
}

/// Returns the message with which a file is refused.
fn refusal(name: &str) -> String {
    open(name).map(drop).expect_err(name).to_string()
}

#[test]
fn code_is_refused_by_name_and_never_executed() {
    for name in ["malicious.pt", "old-malicious.pt"] {
        let error = open(name).map(drop).expect_err(name);
        assert!(
            matches!(&error, Error::Refused { name, position } if name == "posix.system" && *position > 0),
            "{error}"
        );
    }
    assert!(!Path::new("/tmp/admiral-torch-files-was-here").exists());
    assert!(refusal("whole-module.pt").contains("__main__.Network"));
    assert!(refusal("sparse.pt").contains("torch._utils._rebuild_sparse_tensor"));
    assert!(refusal("complex.pt").contains("torch.ComplexFloatStorage"));
}

#[test]
fn files_that_are_not_state_dicts_have_distinct_messages() {
    for (name, expected) in [
        ("nested.pt", "\"state_dict\""),
        ("number.pt", "\"epoch\" is a number"),
        ("list.pt", "it holds a list"),
        ("script.pt", "TorchScript"),
        ("pickle.pt", "no file of torch.save"),
        ("make.py", "no file of torch.save"),
        ("deflated.pt", "compressed"),
    ] {
        let message = refusal(name);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

/// Reads the names and bytes of all tensors in a file.
fn read_all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut state = StateDict::open(Cursor::new(bytes))?;
    let names: Vec<String> = state.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    names.into_iter().enumerate().map(|(index, name)| Ok((name, state.read(index)?))).collect()
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    for name in ["module.pt", "old-module.pt", "module.safetensors"] {
        let bytes = std::fs::read(file(name)).unwrap();
        read_all(&bytes).unwrap();
        for length in 0..bytes.len() {
            assert!(read_all(&bytes[..length]).is_err(), "{name} of {length} bytes");
        }
    }
}

/// Flips each bit of a file, and calls `check` with the byte's position and the result of reading the file.
fn with_each_bit_flipped(name: &str, mut check: impl FnMut(usize, Result<Vec<(String, Vec<u8>)>, Error>)) {
    let mut bytes = std::fs::read(file(name)).unwrap();
    for position in 0..bytes.len() {
        for bit in 0..8 {
            bytes[position] ^= 1 << bit;
            check(position, read_all(&bytes));
            bytes[position] ^= 1 << bit;
        }
    }
}

#[test]
fn a_flipped_bit_never_changes_the_tensors_of_an_archive() {
    for name in ["views.pt", "plain-5.pt"] {
        let whole = read_all(&std::fs::read(file(name)).unwrap()).unwrap();
        let mut refused = 0;
        with_each_bit_flipped(name, |position, read| match read {
            Ok(read) => assert!(read == whole, "{name}: a flip in byte {position} is not detected"),
            Err(_) => refused += 1,
        });
        assert!(refused > 0);
    }
}

#[test]
fn flipped_bits_in_files_without_checksums_do_not_panic() {
    for name in ["old-views.pt", "views.safetensors"] {
        let mut refused = 0;
        with_each_bit_flipped(name, |_, read| refused += usize::from(read.is_err()));
        assert!(refused > 0, "{name}");
    }
}

/// Returns a file of the old format, which has no checksums, with this pickle and a storage of one value.
fn old_file(pickle: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read(file("old-2.pt")).unwrap();
    // The pickles of the magic number, the version and the machine come first.
    let starts: Vec<usize> = bytes.windows(2).enumerate().filter(|(_, w)| w == b"\x80\x02").map(|(i, _)| i).collect();
    bytes.truncate(starts[3]);
    bytes.extend(pickle);
    bytes.extend(b"\x80\x02](X\x01\x00\x00\x000e.");
    bytes.extend([1_u64.to_le_bytes().as_slice(), &1_f32.to_le_bytes()].concat());
    bytes
}

const ONE_VALUE: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n\
    X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00(K\x01t(K\x01t\x89)tRq\x00";

#[test]
fn many_references_to_a_tensor_or_a_dictionary_are_refused_quickly() {
    let entry = |number: u32, value: &[u8]| [b"X\x04\x00\x00\x00", format!("{number:04x}").as_bytes(), value].concat();
    let few = [b"\x80\x02}(X\x01\x00\x00\x00a", ONE_VALUE, &entry(1, b"h\x00"), b"u."].concat();
    let read = read_all(&old_file(&few)).unwrap();
    assert_eq!(
        read.iter().map(|(name, bytes)| (name.as_str(), bytes.len())).collect::<Vec<_>>(),
        [("a", 4), ("0001", 4)]
    );
    let many: Vec<u8> = (0..1 << 16).flat_map(|number| entry(number, b"h\x00")).collect();
    let pickle = [b"\x80\x02}(X\x01\x00\x00\x00a", ONE_VALUE, &many, b"u."].concat();
    assert!(matches!(read_all(&old_file(&pickle)), Err(Error::Unsupported(_))));
    // A large dictionary that is almost a state dict, in every entry of another: 60,000 x 60,000 inspections without a
    // limit.
    let inner: Vec<u8> = (0..60_000).flat_map(|number| entry(number, b"h\x00")).collect();
    let inner = [b"}(X\x01\x00\x00\x00a", ONE_VALUE, &inner, b"X\x01\x00\x00\x00zNuq\x01"].concat();
    let outer: Vec<u8> = (0..60_000).flat_map(|number| entry(number, b"h\x01")).collect();
    let pickle = [b"\x80\x02}(X\x01\x00\x00\x00b", inner.as_slice(), &outer, b"u."].concat();
    assert!(matches!(read_all(&old_file(&pickle)), Err(Error::NotAStateDict(_))));
}
