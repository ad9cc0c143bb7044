//! From images and back: latents, their decodings, images between images, and likelihoods.

use std::path::Path;
use std::process::Command;

use crate::mpirun::{Finished, on_ranks, run};
use crate::runs::{PATIENCE, Place, errors};
use crate::s3::python;

/// The timesteps of the first half of the process. At higher noise, a network that has hardly been trained predicts images
/// whose errors are large.
const RESPACING: &str = "49,1";
/// The bytes of an image.
const IMAGE: usize = 64;

/// A place with a trained model and ten images in `images.npz`: two full batches of four, and one that is not.
struct Desk {
    place: Place,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { place: Place::new() };
        desk.train("base", &[]);
        // Smooth images, whose classes differ.
        desk.python(
            "y, x = np.mgrid[0:8, 0:8]
images = np.stack([128 + 100 * np.sin((x + i) / 3) * np.cos((y - i) / 4) for i in range(10)])
np.savez(sys.argv[1], images[..., None].astype('uint8'), np.arange(10) % 3)",
            &["images.npz"],
        );
        desk
    }

    fn train(&self, name: &str, arguments: &[&str]) {
        let short = ["--set", "training.steps=4", "--set", "training.save_interval=4"];
        self.place.trained(1, name, &[&short[..], arguments].concat());
    }

    fn path(&self, name: &str) -> String {
        self.place.path(name).to_str().unwrap().to_owned()
    }

    /// Runs a Python script with the paths of these files, and returns what it writes.
    fn python(&self, script: &str, files: &[&str]) -> Vec<u8> {
        let script = format!("import sys, numpy as np\n{script}");
        let files = files.iter().map(|file| self.path(file));
        let output = Command::new(python()).args(["-c", &script]).args(files).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The pixels of an npz file of images.
    fn pixels(&self, file: &str) -> Vec<u8> {
        self.python("sys.stdout.buffer.write(np.load(sys.argv[1])['arr_0'].tobytes())", &[file])
    }

    /// `admiral WORD base --out OUT` with more arguments, on `ranks` ranks.
    fn run(&self, ranks: usize, word: &str, out: &str, arguments: &[&str]) -> Finished {
        let mut command = on_ranks(ranks, env!("CARGO_BIN_EXE_admiral"));
        command.arg(word).arg(self.path("base")).args(["--out", &self.path(out), "--batch-size", "4"]);
        run(command.args(["--threads", "1"]).args(arguments), PATIENCE)
    }

    fn done(&self, ranks: usize, word: &str, out: &str, arguments: &[&str]) -> Finished {
        let finished = self.run(ranks, word, out, arguments);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }

    fn encoded(&self, ranks: usize, out: &str, arguments: &[&str]) -> Vec<u8> {
        let images = self.path("images.npz");
        self.done(ranks, "encode", out, &[&["--images", &images, "--respacing", RESPACING][..], arguments].concat());
        std::fs::read(self.place.path(out)).unwrap()
    }

    /// The images that a job draws from latents.
    fn decoded(&self, latents: &str, out: &str) -> Vec<u8> {
        let latents = self.path(latents);
        self.done(1, "sample", out, &["--latents", &latents, "--num", "10"]);
        self.pixels(&format!("{out}/samples_10x8x8x1.npz"))
    }
}

/// The largest difference between two images of the same size.
fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn latents_are_decoded_to_their_images() {
    let desk = Desk::new();
    let latents = desk.encoded(1, "latents.safetensors", &[]);
    assert_eq!(desk.encoded(2, "on-2.safetensors", &[]), latents, "two ranks encode other bytes than one");
    let tensors = safetensors::SafeTensors::deserialize(&latents).unwrap();
    assert_eq!(tensors.tensor("latents").unwrap().shape(), [10, 1, 8, 8]);
    let labels: Vec<u8> = (0..10_i64).flat_map(|image| (image % 3).to_le_bytes()).collect();
    assert_eq!(tensors.tensor("labels").unwrap().data(), labels);
    assert!(desk.encoded(1, "all.safetensors", &["--all-steps"]) != latents);

    let decoded = desk.decoded("latents.safetensors", "decoded");
    let error = largest_difference(&decoded, &desk.pixels("images.npz"));
    assert!(error <= 2, "the largest error is {error} levels");
    // A grid shows the same images.
    let file = desk.path("latents.safetensors");
    let drawn = desk.done(2, "sample", "grid.png", &["--latents", &file, "--per-class", "10"]);
    assert!(drawn.stdout.contains("10 samples"), "{}", drawn.stdout);
    let grid = image::open(desk.place.path("grid.png")).unwrap().to_luma8();
    assert_eq!(cells(&grid, 10).concat(), decoded);
    // A job of other latents is another job.
    let all = desk.path("all.safetensors");
    let refused = desk.run(1, "sample", "decoded", &["--latents", &all, "--num", "10"]);
    assert_eq!(refused.code, Some(64));
    assert!(refused.stderr.contains("latents"), "{}", refused.stderr);
}

/// The images of a strip, row by row.
fn cells(strip: &image::GrayImage, columns: u32) -> Vec<Vec<u8>> {
    let (size, pitch) = (8, 10);
    let start = (strip.width() - (columns * pitch - 2)) / 2;
    let rows = (strip.height() - 2 * start + 2) / pitch;
    let cell = |row: u32, column: u32| {
        let view = image::imageops::crop_imm(strip, start + column * pitch, start + row * pitch, size, size);
        view.to_image().into_raw()
    };
    (0..rows).flat_map(|row| (0..columns).map(move |column| cell(row, column))).collect()
}

#[test]
fn interpolations_lead_from_original_to_original() {
    let desk = Desk::new();
    let images = desk.path("images.npz");
    let common = ["--images", &images, "--respacing", RESPACING, "--columns", "6"];
    let strip = |ranks, out: &str, more: &[&str]| {
        desk.done(ranks, "interpolate", out, &[&common[..], more].concat());
        std::fs::read(desk.place.path(out)).unwrap()
    };
    let alone = strip(1, "strip.png", &[]);
    assert_eq!(strip(2, "on-2.png", &[]), alone, "two ranks draw another strip than one");
    desk.encoded(1, "latents.safetensors", &[]);
    let (originals, decoded) = (desk.pixels("images.npz"), desk.decoded("latents.safetensors", "decoded"));
    let cells = cells(&image::open(desk.place.path("strip.png")).unwrap().to_luma8(), 6);
    assert_eq!(cells.len(), 5 * 6);
    for (pair, row) in cells.chunks(6).enumerate() {
        let of = |pixels: &[u8], image: usize| pixels[image * IMAGE..(image + 1) * IMAGE].to_vec();
        let (a, b) = (2 * pair, 2 * pair + 1);
        assert_eq!((&row[0], &row[5]), (&of(&originals, a), &of(&originals, b)), "ends of pair {pair}");
        for (column, image) in [(1, a), (4, b)] {
            let difference = largest_difference(&row[column], &of(&decoded, image));
            assert!(difference <= 1, "column {column} of pair {pair}: {difference} levels");
        }
        assert!(row[2] != row[1] && row[2] != row[3] && row[3] != row[4], "pair {pair} does not change");
    }

    desk.train("classifier", &["--set", "task=classifier"]);
    let guidance = format!("classifier={}", desk.path("classifier"));
    assert_ne!(strip(1, "guided.png", &["--guidance", &guidance, "--scale", "20"]), alone);
    assert_eq!(strip(1, "unguided.png", &["--guidance", &guidance, "--scale", "0"]), alone);
}

#[test]
fn likelihoods_do_not_depend_on_the_number_of_ranks() {
    let desk = Desk::new();
    let images = desk.path("images.npz");
    let evaluate = |ranks, out: &str, more: &[&str]| {
        let common = ["--data", &images, "--respacing", "10"];
        desk.done(ranks, "nll", out, &[&common[..], more].concat()).stdout
    };
    let printed = evaluate(1, "nll.npz", &[]);
    evaluate(2, "on-2.npz", &[]);
    let file = |name: &str| std::fs::read(desk.place.path(name)).unwrap();
    assert_eq!(file("on-2.npz"), file("nll.npz"), "two ranks evaluate other bytes than one");
    evaluate(1, "seed.npz", &["--seed", "1"]);
    assert_ne!(file("seed.npz"), file("nll.npz"));
    evaluate(1, "few.npz", &["--num", "3"]);
    let read = desk.python(
        "data, few = np.load(sys.argv[1]), np.load(sys.argv[2])
total = data['total_bpd']
assert total.shape == data['prior_bpd'].shape == (10,), total.shape
assert data['vb'].shape == data['mse'].shape == data['xstart_mse'].shape == (10,)
assert np.isclose(total.mean(), data['prior_bpd'].mean() + data['vb'].sum(), rtol=1e-5)
assert np.array_equal(few['total_bpd'], total[:3]) and np.all(total > 0)
print(f'{total.mean():.4f} +- {total.std(ddof=1) / 10 ** 0.5:.4f}')",
        &["nll.npz", "few.npz"],
    );
    let mean = String::from_utf8(read).unwrap();
    assert!(printed.contains(&format!("{} bits per dimension", mean.trim())), "{printed}, and NumPy has {mean}");
    // The images of training bring their classes with them.
    desk.done(1, "nll", "training.npz", &["--data", "training", "--num", "5", "--respacing", "4"]);
}

#[test]
fn what_cannot_be_computed_is_refused_before_anything_is_written() {
    let desk = Desk::new();
    desk.python(
        "images = np.load(sys.argv[1])['arr_0']
np.savez(sys.argv[2], images[:, :5, :5])
np.savez(sys.argv[3], images.astype('float32'))
np.savez(sys.argv[4], images)
np.savez(sys.argv[5], images, np.arange(10))",
        &["images.npz", "shape.npz", "floats.npz", "no-labels.npz", "classes.npz"],
    );
    desk.encoded(1, "latents.safetensors", &[]);
    let [images, shape, floats, no_labels, classes, latents] =
        ["images.npz", "shape.npz", "floats.npz", "no-labels.npz", "classes.npz", "latents.safetensors"]
            .map(|name| desk.path(name));
    let missing = desk.path("missing");
    let auto = format!("auto={}", desk.path("base"));
    let cases: Vec<(&str, &str, Vec<&str>, &str)> = vec![
        ("encode", "x.safetensors", vec!["--images", &shape], "5 x 5 pixels"),
        ("encode", "x.safetensors", vec!["--images", &floats], "uint8"),
        ("encode", "x.safetensors", vec!["--images", &missing], "--images: "),
        ("encode", "x.safetensors", vec!["--images", ""], "--images: is empty"),
        ("nll", "x.npz", vec!["--data", &missing], "--data: "),
        ("sample", "x.png", vec!["--set", "steps"], "--set steps: must look like FIELD=VALUE"),
        ("encode", "x.safetensors", vec!["--images", &no_labels], "have no classes"),
        ("encode", "x.safetensors", vec!["--images", &classes], "9 is not a class"),
        ("encode", "x.safetensors", vec!["--images", &images, "--labels", "3"], "3 is not a class"),
        ("encode", "x.safetensors", vec!["--images", &images, "--num", "11"], "--images has 10 images"),
        ("encode", "x.safetensors", vec!["--images", &images, "--respacing", "ddim999"], "--respacing"),
        ("encode", "x.safetensors", vec!["--images", &images, "--respacing", "1"], "ask for at least 2"),
        ("interpolate", "x.png", vec!["--images", &images, "--respacing", "1"], "ask for at least 2"),
        ("encode", "$HOME.safetensors", vec!["--images", &images], "is not expanded here"),
        ("encode", "x.npz", vec!["--images", &images], "does not end with .safetensors"),
        ("sample", "x", vec!["--num", "11", "--latents", &latents], "--latents has 10"),
        ("sample", "x", vec!["--num", "9", "--latents", &images], "no safetensors file"),
        ("sample", "x.png", vec!["--latents", &latents, "--sampler", "ddpm"], "decoded by ddim"),
        ("sample", "x.png", vec!["--latents", &latents, "--respacing", "ddim25"], RESPACING),
        ("sample", "x.png", vec!["--latents", &latents, "--labels", "0,1"], "has 10 latents"),
        ("interpolate", "x.png", vec!["--images", &images, "--pairs", "6"], "12 images"),
        ("interpolate", "x.jpg", vec!["--images", &images], "does not end with .png"),
        (
            "interpolate",
            "x.png",
            vec!["--images", &images, "--guidance", &auto, "--scale", "1"],
            "classifier=CHECKPOINT",
        ),
        ("encode", "images.npz/x.safetensors", vec!["--images", &images], "write it somewhere else"),
        ("interpolate", "/proc/x.png", vec!["--images", &images], "write it somewhere else"),
        ("nll", "/proc/new/x.npz", vec!["--data", &images], "write it somewhere else"),
        ("sample", "images.npz/x.png", vec!["--latents", &latents], "write it somewhere else"),
        ("sample", "x.npz", vec!["--latents", &latents, "--num", "4"], "is a file's name"),
        ("nll", "x.npz", vec!["--data", &floats], "uint8"),
        ("nll", "x.npz", vec!["--data", "validation"], "no validation images"),
        ("nll", "x.npz", vec!["--data", &images, "--num", "11"], "--data has 10 images"),
    ];
    for (word, out, arguments, expected) in cases {
        let refused = desk.run(1, word, out, &arguments);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{arguments:?}: {}", refused.stderr);
        assert!(!Path::new(&desk.path(out)).exists(), "{arguments:?} left {out}");
        assert!(!refused.stderr.contains("data.path"), "{arguments:?}: {}", refused.stderr);
        assert!(
            !refused.stderr.contains("fused operations"),
            "{arguments:?} works before it refuses: {}",
            refused.stderr
        );
    }
    // A broken picture is named, without a field of a configuration.
    std::fs::create_dir(desk.place.path("pictures")).unwrap();
    std::fs::write(desk.place.path("pictures/broken.png"), "no picture").unwrap();
    let pictures = desk.path("pictures");
    let broken = desk.run(1, "encode", "x.safetensors", &["--images", &pictures, "--labels", "0"]);
    assert_eq!((broken.code, errors(&broken).len()), (Some(64), 1), "{}", broken.stderr);
    assert!(errors(&broken)[0].ends_with("repair or remove it"), "{}", broken.stderr);
    assert!(broken.stderr.contains("broken.png"), "{}", broken.stderr);
    assert!(!Path::new(&desk.path("x.safetensors")).exists());
    // One of several ranks prints the message.
    let refused = desk.run(2, "encode", "x.safetensors", &["--images", &shape]);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
}
