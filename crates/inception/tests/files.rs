//! Weights in files of each format, as other programs write them.
#![allow(clippy::unwrap_used)]

mod graph_writer;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use admiral_inception::{Conversion, Error, FileKind, TensorShape, Weights, tensors};
use admiral_torch_files::{Dtype, TensorSpec, Writer};
use graph_writer::{Form, GraphWriter, graph_of};
use safetensors::tensor::{Dtype as Named, TensorView};

/// Values that differ between and within tensors.
fn fill(tensor: &TensorShape) -> Vec<f32> {
    let seed = tensor.name.bytes().fold(7_usize, |sum, byte| (sum * 31 + usize::from(byte)) % 1009);
    let sign = if tensor.name.ends_with("running_var") { 1.0 } else { -0.5 };
    (0..tensor.num_elements()).map(|i| sign * ((i * 17 + seed) % 1013) as f32 / 512.0).collect()
}

fn weights() -> Weights {
    Weights::computed(fill).unwrap()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a PyTorch file with other names.
fn write_torch(path: &Path, weights: &Weights, rename: impl Fn(&str) -> String) {
    let specs: Vec<TensorSpec> = weights
        .tensors()
        .iter()
        .map(|(tensor, _)| TensorSpec { name: rename(&tensor.name), dtype: Dtype::F32, shape: tensor.shape.clone() })
        .collect();
    let mut writer = Writer::new(Cursor::new(Vec::new()), &specs).unwrap();
    for (_, values) in weights.tensors() {
        writer.tensor(std::iter::once(bytes_of(values))).unwrap();
    }
    fs::write(path, writer.finish().unwrap().into_inner()).unwrap();
}

/// Writes a safetensors file of named tensors.
fn write_safetensors(path: &Path, tensors: &[(String, Named, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn named(weights: &Weights, rename: impl Fn(&str) -> String) -> Vec<(String, Named, Vec<usize>, Vec<u8>)> {
    let row = |(tensor, values): &(TensorShape, Vec<f32>)| {
        (rename(&tensor.name), Named::F32, tensor.shape.clone(), bytes_of(values))
    };
    weights.tensors().iter().map(row).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn each_format_gives_the_same_fingerprint() {
    let (folder, weights) = (Folder::new(), weights());
    let files = ["a.bin", "b.bin", "c.bin"].map(|name| folder.file(name));
    write_torch(&files[0], &weights, str::to_owned);
    assert_eq!(weights.write_safetensors(&files[1]).unwrap(), Conversion::Written);
    fs::write(&files[2], graph_of(&weights, true).finish()).unwrap();
    for (file, kind) in files.iter().zip([FileKind::PyTorch, FileKind::Safetensors, FileKind::TensorFlow]) {
        let read = Weights::open(file).unwrap();
        assert_eq!(read.file_kind(), Some(kind));
        assert_eq!(read.tensors(), weights.tensors(), "{kind}");
        assert_eq!(read.fingerprint(), weights.fingerprint());
        assert!(read.has_classes() && read.known().is_none());
    }
    let other = Weights::computed(|tensor| {
        let mut values = fill(tensor);
        values[0] += if tensor.name == "fc.bias" { 1.0 } else { 0.0 };
        values
    });
    assert_ne!(other.unwrap().fingerprint(), weights.fingerprint());
}

#[test]
fn prefixes_numbered_blocks_and_counters_are_understood() {
    let (folder, weights) = (Folder::new(), weights());
    let file = folder.file("prefixed.safetensors");
    let mut tensors = named(&weights, |name| format!("module.{name}"));
    tensors.push(("module.Conv2d_1a_3x3.bn.num_batches_tracked".into(), Named::I64, vec![], vec![0; 8]));
    tensors.push(("head.weight".into(), Named::F32, vec![1], vec![0; 4]));
    write_safetensors(&file, &tensors);
    assert_eq!(Weights::open(&file).unwrap().fingerprint(), weights.fingerprint());

    // The module of pytorch-fid has no last layer.
    let without = weights.without_classes();
    assert!(!without.has_classes() && without.get("fc.bias").is_none());
    let blocks: [&[&str]; 4] = [
        &["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"],
        &["Conv2d_3b_1x1", "Conv2d_4a_3x3"],
        &["Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"],
        &["Mixed_7a", "Mixed_7b", "Mixed_7c"],
    ];
    let numbered = |name: &str| {
        let (layer, rest) = name.split_once('.').unwrap();
        let block = blocks.iter().position(|block| block.contains(&layer)).unwrap();
        let place = blocks[block].iter().position(|other| *other == layer).unwrap();
        format!("blocks.{block}.{place}.{rest}")
    };
    let file = folder.file("numbered.pth");
    write_torch(&file, &without, numbered);
    let read = Weights::open(&file).unwrap();
    assert_eq!(read.fingerprint(), without.fingerprint());
    assert!(!read.has_classes());
}

/// Writes and reads a safetensors file in which `change` has changed something. Returns the message.
fn message_of(change: impl FnOnce(&mut Vec<(String, Named, Vec<usize>, Vec<u8>)>)) -> String {
    let folder = Folder::new();
    let mut tensors = named(&weights().without_classes(), str::to_owned);
    change(&mut tensors);
    let file = folder.file("w.safetensors");
    write_safetensors(&file, &tensors);
    Weights::open(&file).unwrap_err().to_string()
}

#[test]
fn weights_of_another_network_are_refused_by_name() {
    let position = tensors().iter().position(|tensor| tensor.name == "Mixed_6d.branch1x1.bn.bias").unwrap();
    let text = message_of(|all| drop(all.remove(position)));
    assert!(text.contains("it has no tensor Mixed_6d.branch1x1.bn.bias"), "{text}");
    let text = message_of(|all| {
        all[position].2 = vec![64];
        all[position].3.truncate(256);
    });
    assert!(text.contains("Mixed_6d.branch1x1.bn.bias has the shape [64], not [192]"), "{text}");
    let text = message_of(|all| all.push(("AuxLogits.fc.bias".into(), Named::F32, vec![1], vec![0; 4])));
    assert!(text.contains("AuxLogits.fc.bias, which the network does not have"), "{text}");
    let text = message_of(|all| all.push(("fc.bias".into(), Named::F32, vec![1000], vec![0; 4000])));
    assert!(
        text.contains("no tensor fc.weight") && text.contains("fc.bias has the shape [1000], not [1008]"),
        "{text}"
    );
    let text = message_of(|all| all.clear());
    assert!(text.contains("it has no tensor Conv2d_1a_3x3.conv.weight"), "{text}");
    let text = message_of(|all| all.truncate(1));
    assert!(text.contains("and 466 more differences"), "{text}");
    let text = message_of(|all| {
        all[0].1 = Named::I32;
    });
    assert!(text.contains("Conv2d_1a_3x3.conv.weight is I32"), "{text}");
}

#[test]
fn values_that_no_network_has_are_refused() {
    let text = message_of(|all| all[1].3[4..8].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(text.contains("Conv2d_1a_3x3.bn.weight holds NaN at index 1"), "{text}");
    let text = message_of(|all| all[4].3[..4].copy_from_slice(&(-1.0_f32).to_le_bytes()));
    assert!(text.contains("Conv2d_1a_3x3.bn.running_var holds -1 at index 0"), "{text}");
}

#[test]
fn other_and_truncated_files_are_refused() {
    let (folder, weights) = (Folder::new(), weights());
    let file = folder.file("file");
    for (bytes, expected) in [
        (&b""[..], "it is empty"),
        (b"hello, world, how are you?", "no file of Inception weights"),
        (b"\n\nhello", "is damaged"),
        (b"<html>", "web page"),
    ] {
        fs::write(&file, bytes).unwrap();
        let text = Weights::open(&file).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let graph = graph_of(&weights, false).finish();
    let torch = folder.file("torch");
    write_torch(&torch, &weights, str::to_owned);
    for bytes in [graph, fs::read(&torch).unwrap()] {
        fs::write(&file, &bytes[..bytes.len() - 1000]).unwrap();
        let error = Weights::open(&file).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    assert!(matches!(Weights::open(folder.0.path()), Err(Error::Foreign { .. } | Error::File { .. })));
    assert!(matches!(Weights::open(&folder.file("missing")), Err(Error::File { .. })));
    let pipe = folder.file("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Weights::open(&pipe).unwrap_err().to_string();
    assert!(error.contains("it is a pipe"), "{error}");
    let error = weights.write_safetensors(&pipe).unwrap_err().to_string();
    assert!(error.contains("it is a pipe"), "{error}");
}

#[test]
fn a_conversion_never_overwrites_something_else() {
    let (folder, weights) = (Folder::new(), weights());
    let file = folder.file("w.safetensors");
    assert_eq!(weights.write_safetensors(&file).unwrap(), Conversion::Written);
    assert_eq!(weights.write_safetensors(&file).unwrap(), Conversion::Same);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1);
    fs::write(&file, b"something else").unwrap();
    assert!(matches!(weights.write_safetensors(&file), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"something else");
    assert!(matches!(weights.write_safetensors(&folder.file("no/folder")), Err(Error::File { .. })));
}

/// What a test does to a graph.
type Change<'a> = &'a dyn Fn(&mut GraphWriter);

#[test]
fn a_graph_may_leave_out_what_tensorflow_leaves_out() {
    let (folder, weights) = (Folder::new(), weights());
    let file = folder.file("graph.pb");
    let whole = graph_of(&weights, false);
    let open = |change: Change<'_>| {
        let mut graph = whole.clone();
        change(&mut graph);
        fs::write(&file, graph.finish()).unwrap();
        Weights::open(&file)
    };
    let gamma = "conv/batchnorm/gamma";
    // The last of the values stands for all that follow.
    let read = open(&|graph| graph.constant(gamma, &[32], &[1.5, 0.25], Form::Floats)).unwrap();
    let values = read.get("Conv2d_1a_3x3.bn.weight").unwrap();
    assert_eq!((values[0], &values[1..]), (1.5, &[0.25; 31][..]));
    let read = open(&|graph| graph.constant(gamma, &[32], &[], Form::Floats)).unwrap();
    assert_eq!(read.get("Conv2d_1a_3x3.bn.weight").unwrap(), [0.0; 32]);
    // A normalization that does not scale ignores its weights.
    let read = open(&|graph| graph.normalization("conv/batchnorm", 0.001, false)).unwrap();
    assert_eq!(read.get("Conv2d_1a_3x3.bn.weight").unwrap(), [1.0; 32]);

    let cases: [(Change<'_>, &str); 6] = [
        (&|graph| graph.normalization("conv/batchnorm", 1e-5, true), "variance_epsilon"),
        (&|graph| graph.constant(gamma, &[33], &[1.0], Form::Floats), "the shape [33], not [32]"),
        (&|graph| graph.constant(gamma, &[32], &[1.0; 31], Form::Content), "it holds 31 values"),
        (&|graph| graph.constant(gamma, &[32], &[1.0; 33], Form::Floats), "it holds 33 values"),
        (&|graph| graph.remove(gamma), "it has no constant conv/batchnorm/gamma"),
        (&|graph| graph.remove("softmax/biases"), "it has no constant softmax/biases"),
    ];
    for (change, expected) in cases {
        let text = open(change).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let read = open(&|graph| {
        graph.remove("softmax/biases");
        graph.remove("softmax/weights");
    });
    assert!(!read.unwrap().has_classes());
}
