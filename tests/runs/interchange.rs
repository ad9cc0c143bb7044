//! Import and export of checkpoints with the real program: files that PyTorch wrote (tests/interchange/make.py) come
//! back bit by bit, and a file that cannot be imported is refused before anything is written.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use admiral_torch_files::StateDict;

use crate::mpirun::{Finished, run};
use crate::runs::{PATIENCE, Place, errors};
use crate::s3;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interchange").join(name)
}

fn torch_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/torch-files/tests/files").join(name)
}

fn checkpoint<const N: usize>(arguments: [&dyn AsRef<std::ffi::OsStr>; N]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
    command.arg("checkpoint").args(arguments.map(AsRef::as_ref));
    run(&mut command, PATIENCE)
}

fn succeeds<const N: usize>(arguments: [&dyn AsRef<std::ffi::OsStr>; N]) -> Finished {
    let finished = checkpoint(arguments);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished
}

/// Runs a command that must be refused with exit code 64. Returns its message.
fn refused<const N: usize>(arguments: [&dyn AsRef<std::ffi::OsStr>; N]) -> String {
    let finished = checkpoint(arguments);
    assert_eq!(finished.code, Some(64), "{} {}", finished.stdout, finished.stderr);
    assert_eq!(errors(&finished).len(), 1, "{}", finished.stderr);
    finished.stderr
}

/// The name, shape and float32 bits of each tensor of a file, in order.
fn values(path: &Path) -> Vec<(String, Vec<usize>, Vec<u32>)> {
    let mut state = StateDict::open(File::open(path).unwrap()).unwrap();
    let tensors = state.tensors().to_vec();
    let read = |(index, tensor): (usize, &admiral_torch_files::TensorInfo)| {
        let mut values = vec![0.0; tensor.num_elements()];
        assert_eq!(state.read_f32(index, &mut values).unwrap(), 0);
        (tensor.name.clone(), tensor.shape.clone(), values.into_iter().map(f32::to_bits).collect())
    };
    tensors.iter().enumerate().map(read).collect()
}

#[test]
fn files_of_torch_come_back_bit_by_bit() {
    for name in ["tiny.pt", "tiny-old-half.pt"] {
        let place = Place::new();
        let (config, source, imported) = (place.path("tiny.yaml"), fixture(name), place.path("imported"));
        let said = succeeds([&"import", &source, &imported, &"--config", &config]);
        assert!(said.stdout.contains("(diffusion)") && said.stdout.contains("step-000000000"), "{}", said.stdout);
        let (out, other) = (place.path("out.pt"), place.path("out.safetensors"));
        let expected = values(&source);
        assert!(expected.len() > 50);
        for weights in ["ema", "master", "ema-0.99"] {
            succeeds([&"export", &imported, &out, &"--overwrite", &"--weights", &weights]);
            assert!(values(&out) == expected, "{name}: {weights}");
        }
        succeeds([&"export", &imported, &other]);
        assert!(values(&other) == expected, "{name}");

        // Python's zipfile and pickle modules and its safetensors package read the same.
        let mut script = Command::new(s3::python());
        script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/state_dict.py")).arg(&out).arg(&other);
        let read = run(&mut script, PATIENCE);
        assert_eq!(read.code, Some(0), "{}", read.stderr);
        assert_eq!(read.stdout.lines().collect::<Vec<_>>(), expected.iter().map(|(n, ..)| n).collect::<Vec<_>>());

        // Import from safetensors, too.
        let (again, same) = (place.path("again"), place.path("same.pt"));
        succeeds([&"import", &other, &again, &"--config", &config, &"--weights-only"]);
        succeeds([&"export", &again, &same]);
        assert!(std::fs::read(&same).unwrap() == std::fs::read(&out).unwrap());
        assert!(refused([&"export", &again, &same, &"--overwrite", &"--weights", &"master"]).contains("ema-0.9"));
    }
}

#[test]
fn training_and_sampling_start_from_an_import() {
    let place = Place::new();
    let (config, source) = (place.path("tiny.yaml"), fixture("tiny.pt"));
    let imported = place.path("run/checkpoints");
    let said = succeeds([&"import", &source, &imported, &"--config", &config, &"--json"]);
    let said: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let roles = ["master", "adam-mean", "adam-variance", "ema-0.9", "ema-0.99"];
    assert_eq!(said["roles"], serde_json::json!(roles));
    assert_eq!(said["task"], "diffusion");
    let tensors = place.tensors("run", 0);
    for (name, _, bits) in values(&source) {
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        for role in roles {
            let found = &tensors[&format!("{role}/{name}")];
            let is_moment = role.starts_with("adam");
            assert!(if is_moment { found.iter().all(|&byte| byte == 0) } else { *found == bytes }, "{role} {name}");
        }
    }
    let picture = place.path("samples.png");
    let mut sample = Command::new(env!("CARGO_BIN_EXE_admiral"));
    sample.arg("sample").arg(place.path("run")).arg("--out").arg(&picture);
    let sampled = run(&mut sample, PATIENCE);
    assert_eq!(sampled.code, Some(0), "{}", sampled.stderr);
    assert!(picture.is_file());
    place.trained(1, "run", &["--resume", "latest"]);
    assert!(place.is_published("run", 20));
}

#[test]
fn a_file_that_cannot_be_imported_is_refused_before_anything_is_written() {
    let place = Place::new();
    let (config, target, pipe) = (place.path("tiny.yaml"), place.path("imported"), place.path("pipe.pt"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (source, expected) in [
        (pipe, "it is a pipe"),
        (torch_file("malicious.pt"), "posix.system"),
        (torch_file("old-malicious.pt"), "posix.system"),
        (torch_file("nested.pt"), "\"state_dict\""),
        (torch_file("deflated.pt"), "compressed"),
        (torch_file("plain-2.pt"), "missing"),
        (torch_file("plain-2.safetensors"), "missing"),
        (place.path("nothing.pt"), "No such file"),
        (config.clone(), "no file of torch.save"),
        (fixture("tiny.pt"), "--config"),
    ] {
        let message = refused([&"import", &source, &target]);
        assert!(message.contains(expected), "{}: {message}", source.display());
        assert!(message.contains(&source.display().to_string()), "{message}");
        assert!(!target.exists(), "{}", source.display());
    }
    let message = refused([&"import", &fixture("tiny.pt"), &target, &"--config", &"imagenet64"]);
    assert!(message.contains("does not fit imagenet64"), "{message}");
    assert!(refused([&"import", &fixture("tiny.pt"), &"ftp://bucket", &"--config", &config]).contains("ftp://"));
    assert!(!target.exists());
}

#[test]
fn doubles_are_imported_if_float32_can_represent_them() {
    let place = Place::new();
    let (config, file, target) = (place.path("tiny.yaml"), place.path("doubles.safetensors"), place.path("imported"));
    let tensors = values(&fixture("tiny.pt"));
    let write = |first: Option<f64>| {
        let doubles: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, _, bits)| {
                let exact = bits.iter().map(|&bits| f64::from(f32::from_bits(bits)));
                exact.enumerate().flat_map(|(i, x)| first.filter(|_| i == 0).unwrap_or(x).to_le_bytes()).collect()
            })
            .collect();
        let views = tensors.iter().zip(&doubles).map(|((name, shape, _), bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape.clone(), bytes).unwrap();
            (name, view)
        });
        safetensors::serialize_to_file(views, None, &file).unwrap();
    };
    write(Some(0.1));
    let message = refused([&"import", &file, &target, &"--config", &config]);
    assert!(message.contains("F64") && message.contains(".float()"), "{message}");
    assert!(!target.exists());
    write(Some(f64::NAN));
    let nowhere = place.path("not-finite");
    let program = env!("CARGO_BIN_EXE_admiral");
    let mut import = Command::new(program);
    import.args(["checkpoint", "import"]).args([&file, &nowhere]).arg("--config").arg(&config).arg("--weights-only");
    let imported = run(&mut import, PATIENCE);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    assert!(imported.stderr.contains(" values are NaN or infinite, the first of them in "), "{}", imported.stderr);
    let mut sample = Command::new(program);
    sample.arg("sample").arg(&nowhere).arg("--out").arg(place.path("nan.png")).args([
        "--respacing",
        "2",
        "--per-class",
        "1",
    ]);
    let sampled = run(&mut sample, PATIENCE);
    assert!(sampled.stderr.contains("has values that are NaN or infinite"), "{}", sampled.stderr);
    write(None);
    succeeds([&"import", &file, &target, &"--config", &config, &"--weights-only"]);
    let out = place.path("out.pt");
    succeeds([&"export", &target, &out]);
    assert!(values(&out) == tensors);
}

#[test]
fn import_and_export_do_not_overwrite_by_default() {
    let place = Place::new();
    let (config, imported) = (place.path("tiny.yaml"), place.path("imported"));
    let import = || refused([&"import", &fixture("tiny.pt"), &imported, &"--config", &config]);
    succeeds([&"import", &fixture("tiny.pt"), &imported, &"--config", &config, &"--weights-only"]);
    assert!(import().contains("has checkpoints already"));
    let out = place.path("out.pt");
    std::fs::write(&out, "mine").unwrap();
    assert!(refused([&"export", &imported, &out]).contains("--overwrite"));
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    assert!(refused([&"export", &imported, &place.path("out.bin")]).contains(".safetensors"));
    assert!(refused([&"export", &place.path("none"), &place.path("new.pt")]).contains("none"));
    assert!(refused([&"export", &imported, &place.path("no/such/folder.pt")]).contains("cannot write"));
    let left: Vec<String> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial") || name.starts_with("new") || name.starts_with("no"))
        .collect();
    assert_eq!(left, [""; 0]);
}
