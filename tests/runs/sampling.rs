//! Jobs of many images: the same bytes on any number of ranks and after kills, refusals, stacks and guidance.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use admiral_random::{Philox, Stream};

use crate::mpirun::{Finished, Running, on_ranks, run, session};
use crate::runs::{PATIENCE, Place, errors, wait_until};
use crate::s3::{S3, environment, python};

/// The images of most jobs: five full batches and one that is not, in three parts.
const NUM: &str = "23";

/// A place with a trained model.
struct Studio {
    place: Place,
}

impl Studio {
    fn new() -> Self {
        let place = Place::new();
        let short = ["--set", "training.steps=4", "--set", "training.save_interval=2"];
        place.trained(1, "base", &short);
        Self { place }
    }

    fn train(&self, name: &str, arguments: &[&str]) {
        let short = ["--set", "training.steps=4", "--set", "training.save_interval=2"];
        self.place.trained(1, name, &[&short[..], arguments].concat());
    }

    fn classifier(&self) -> String {
        self.train("classifier", &["--set", "task=classifier"]);
        format!("classifier={}", self.path("classifier"))
    }

    fn path(&self, name: &str) -> String {
        self.place.path(name).to_str().unwrap().to_owned()
    }

    /// The command that samples from the run `model` on `ranks` ranks into `out`.
    fn command(&self, ranks: usize, model: &str, out: &str, arguments: &[&str]) -> Command {
        let mut command = on_ranks(ranks, env!("CARGO_BIN_EXE_admiral"));
        command.arg("sample").arg(self.path(model)).args(["--out", out]).args(arguments);
        command
    }

    /// Samples in batches of 4 and parts of 8 images into the folder `out`, with one thread unless `arguments` say otherwise.
    fn job(&self, ranks: usize, model: &str, out: &str, arguments: &[&str]) -> Command {
        let sizes = ["--batch-size", "4", "--part-images", "8"];
        let threads: &[&str] = if arguments.contains(&"--threads") { &[] } else { &["--threads", "1"] };
        self.command(ranks, model, &self.path(out), &[&sizes[..], threads, arguments].concat())
    }

    fn drawn(&self, ranks: usize, model: &str, out: &str, arguments: &[&str]) -> Finished {
        let finished = run(&mut self.job(ranks, model, out, arguments), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished
    }

    fn npz(&self, out: &str) -> Vec<u8> {
        let name = format!("samples_{NUM}x8x8x1.npz");
        std::fs::read(self.place.path(out).join(name)).unwrap()
    }
}

/// The differences of the bytes of two files of the same length.
fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// What NumPy reads from an npz file, and what the published evaluator's way of streaming reads.
fn read_by_numpy(file: &Path) -> String {
    let script = "
import sys, zipfile, numpy as np
data = np.load(sys.argv[1])
images, labels = data['arr_0'], data['arr_1']
with zipfile.ZipFile(sys.argv[1]) as archive, archive.open('arr_0.npy') as member:
    assert np.lib.format.read_magic(member) == (1, 0)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    rows = []
    while len(rows) < shape[0]:
        count = min(5, shape[0] - len(rows))
        block = member.read(count * int(np.prod(shape[1:])) * dtype.itemsize)
        rows.extend(np.frombuffer(block, dtype=dtype).reshape([count, *shape[1:]]))
assert not fortran and np.array_equal(np.stack(rows), images)
print(images.dtype, images.shape, labels.dtype, *labels)
";
    let output = Command::new(python()).args(["-c", script]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_guided_job_has_the_same_bytes_on_any_number_of_ranks() {
    let studio = Studio::new();
    let guidance = studio.classifier();
    let guided = ["--num", NUM, "--guidance", &guidance, "--scale", "2", "--classes", "balanced"];
    // Ranks share the cores of a machine, so that fewer ranks have more threads.
    for (ranks, threads) in [(1, "3"), (2, "2"), (3, "1")] {
        studio.drawn(ranks, "base", &format!("on-{ranks}"), &[&guided[..], &["--threads", threads]].concat());
    }
    let alone = studio.npz("on-1");
    for ranks in [2, 3] {
        assert!(studio.npz(&format!("on-{ranks}")) == alone, "{ranks} ranks draw other bytes than one");
    }
    let classes = (0..23).map(|image| (image % 3).to_string()).collect::<Vec<_>>().join(" ");
    let file = studio.place.path("on-1/samples_23x8x8x1.npz");
    assert_eq!(read_by_numpy(&file), format!("uint8 (23, 8, 8, 1) int64 {classes}"));

    // TensorBoard reads the speed of each part, and a grid of the first part.
    let script = "import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print([e.step for e in events.Scalars('images_per_second')], [e.step for e in events.Scalars('samples')],
      [(e.step, e.width, e.height) for e in events.Images('samples')])";
    let output =
        Command::new(python()).args(["-c", script]).arg(studio.place.path("on-1/tensorboard")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[8, 16, 23] [0, 8, 16, 23] [(23, 82, 12)]");

    // A classifier that was exported and imported guides as the original.
    let checkpoint = |arguments: &[&str]| {
        let finished = run(Command::new(env!("CARGO_BIN_EXE_admiral")).arg("checkpoint").args(arguments), PATIENCE);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    };
    let (exported, imported) = (studio.path("classifier.pt"), studio.path("imported"));
    checkpoint(&["export", &studio.path("classifier"), &exported]);
    let config = studio.path("classifier/config.yaml");
    checkpoint(&["import", &exported, &imported, "--config", &config, "--weights-only"]);
    let imported = format!("classifier={imported}");
    let guided_by_it = ["--num", NUM, "--guidance", &imported, "--scale", "2", "--classes", "balanced"];
    studio.drawn(1, "base", "imported-guide", &guided_by_it);
    assert!(studio.npz("imported-guide") == alone, "an imported classifier guides in another way");

    // Fewer images are the first of them, and the classifier matters.
    studio.drawn(1, "base", "unguided", &["--num", NUM, "--classes", "balanced"]);
    assert_ne!(studio.npz("unguided"), alone);

    // A second start draws nothing. Another request in the same place is refused, with what differs.
    let again = studio.drawn(2, "base", "on-1", &guided);
    assert!(again.stderr.contains("0 of 3 parts are missing"), "{}", again.stderr);
    let before = studio.npz("on-1");
    for (change, field) in [
        (vec!["--num", NUM, "--guidance", &guidance, "--scale", "3", "--classes", "balanced"], "guidance.scale"),
        (vec!["--num", NUM, "--guidance", &guidance, "--scale", "2"], "images.classes"),
        (vec!["--num", "24", "--guidance", &guidance, "--scale", "2", "--classes", "balanced"], "number of images"),
    ] {
        let refused = run(&mut studio.job(1, "base", "on-1", &change), PATIENCE);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
        assert!(refused.stderr.contains(field), "{field}: {}", refused.stderr);
    }
    assert_eq!(studio.npz("on-1"), before);
}

#[test]
fn another_batch_size_changes_images_by_a_level_at_most() {
    let studio = Studio::new();
    studio.drawn(1, "base", "four", &["--num", NUM]);
    let sizes = ["--batch-size", "6", "--part-images", "6", "--threads", "1", "--num", NUM];
    let finished = run(&mut studio.command(2, "base", &studio.path("six"), &sizes), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let pixels = |out: &str| {
        let script = "import sys, numpy as np; sys.stdout.buffer.write(np.load(sys.argv[1])['arr_0'].tobytes())";
        let file = studio.place.path(out).join("samples_23x8x8x1.npz");
        Command::new(python()).args(["-c", script]).arg(file).output().unwrap().stdout
    };
    assert!(largest_difference(&pixels("four"), &pixels("six")) <= 1);
}

/// Whether a process is a rank of a job.
fn is_rank(id: &i32) -> bool {
    let program = env!("CARGO_BIN_EXE_admiral");
    std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.as_os_str() == program)
}

/// Kills a rank of a job at a random time and starts the job again, `num_kills` times. The result has the bytes of a job
/// that nobody disturbed.
fn survives_kills(num_kills: u64) {
    let studio = Studio::new();
    let slow = ["--num", NUM, "--sampler", "ddpm", "--respacing", "100"];
    studio.drawn(1, "base", "undisturbed", &slow);
    let seed =
        std::env::var("ADMIRAL_CHAOS_SEED").map_or_else(|_| std::process::id().into(), |seed| seed.parse().unwrap());
    println!("ADMIRAL_CHAOS_SEED={seed}");
    let mut random = Philox::new(seed, Stream::Initialization, 0);
    let mut struck = 0;
    while struck < num_kills {
        let running = Running::start(&mut studio.job(2, "base", "killed", &slow));
        std::thread::sleep(Duration::from_millis(200 + random.below(1800)));
        let victims: Vec<i32> = session(running.id()).into_iter().filter(is_rank).collect();
        let Some(victim) = victims.get(random.below(victims.len().max(1) as u64) as usize) else {
            // The job was faster. It begins anew elsewhere.
            let finished = running.finish(PATIENCE);
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
            assert!(studio.npz("killed") == studio.npz("undisturbed"));
            std::fs::remove_dir_all(studio.place.path("killed")).unwrap();
            continue;
        };
        // SAFETY: the process belongs to this test.
        unsafe { libc::kill(*victim, libc::SIGKILL) };
        let killed = running.finish(PATIENCE);
        assert!(!killed.timed_out, "the group outlives its rank: {}", killed.stderr);
        struck += 1;
        // What is published is whole: NumPy reads every part that has a marker.
        let parts = studio.place.path("killed/parts");
        let markers = std::fs::read_dir(&parts).into_iter().flatten().flatten().map(|entry| entry.path());
        for marker in markers.filter(|path| path.extension().is_some_and(|end| end == "json")) {
            read_by_numpy(&marker.with_extension("npz"));
        }
    }
    studio.drawn(2, "base", "killed", &slow);
    assert!(studio.npz("killed") == studio.npz("undisturbed"), "a killed job drew other images");
}

#[test]
fn a_job_survives_kills() {
    survives_kills(3);
}

#[test]
#[ignore = "minutes: make chaos"]
fn a_job_survives_many_kills() {
    survives_kills(20);
}

#[test]
fn a_job_that_is_asked_to_stop_keeps_its_parts() {
    let studio = Studio::new();
    let parts = ["--num", NUM, "--batch-size", "4", "--part-images", "4", "--threads", "1"];
    let slow = [&parts[..], &["--sampler", "ddpm", "--respacing", "250"]].concat();
    let job = || studio.command(2, "base", &studio.path("stopped"), &slow);
    let running = Running::start(&mut job());
    let parts: PathBuf = studio.place.path("stopped/parts");
    let is_marker = |path: &Path| path.extension().is_some_and(|end| end == "json");
    wait_until("a part is there", || {
        std::fs::read_dir(&parts).is_ok_and(|entries| entries.flatten().any(|entry| is_marker(&entry.path())))
    });
    // One rank is asked. It tells the other.
    let ranks: Vec<i32> = session(running.id()).into_iter().filter(is_rank).collect();
    // SAFETY: the process belongs to this test.
    unsafe { libc::kill(ranks[0], libc::SIGTERM) };
    let stopped = running.finish(PATIENCE);
    assert_eq!(stopped.code, Some(75), "{}", stopped.stderr);
    let finished = run(&mut job(), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(!finished.stderr.contains("6 of 6 parts are missing"), "{}", finished.stderr);
}

#[test]
fn a_stack_equals_its_two_stages_one_after_the_other() {
    let studio = Studio::new();
    studio.train("small", &["--set", "model.image_size=4", "--set", "model.channel_mult=[1]"]);
    studio.train("large", &["--set", "task=super_resolution", "--set", "model.small_size=4"]);
    let upsampler = studio.path("large");
    let ddpm = ["--upsampler-set", "sampler=ddpm", "--upsampler-set", "timestep_respacing=\"5\""];
    studio.drawn(2, "small", "stack", &[&["--num", NUM, "--upsampler", &upsampler][..], &ddpm].concat());

    studio.drawn(1, "small", "first", &["--num", NUM]);
    let second = ["--num", NUM, "--sampler", "ddpm", "--respacing", "5", "--low-res"];
    let (job, file) = (studio.path("first"), studio.path("first/samples_23x4x4x1.npz"));
    studio.drawn(1, "large", "from-job", &[&second[..], &[&job]].concat());
    studio.drawn(1, "large", "from-file", &[&second[..], &[&file]].concat());
    assert!(studio.npz("from-job") == studio.npz("stack"), "an upsampler alone draws other images than in a stack");
    assert!(studio.npz("from-file") == studio.npz("stack"));
    // Classes stay with their images, also if the upsampler does not use them; and they may come from a classifier.
    studio.train(
        "plain",
        &["--set", "task=super_resolution", "--set", "model.small_size=4", "--set", "model.num_classes=null"],
    );
    let plain = studio.path("plain");
    studio.drawn(1, "small", "plain-stack", &["--num", NUM, "--upsampler", &plain]);
    studio.drawn(1, "plain", "plain-alone", &["--num", NUM, "--low-res", &job]);
    assert!(studio.npz("plain-alone") == studio.npz("plain-stack"));
    studio.train(
        "unconditional",
        &["--set", "model.image_size=4", "--set", "model.channel_mult=[1]", "--set", "model.num_classes=null"],
    );
    studio.train(
        "guide",
        &["--set", "task=classifier", "--set", "model.image_size=4", "--set", "model.channel_mult=[1]"],
    );
    let guide = format!("classifier={}", studio.path("guide"));
    let guided = ["--num", NUM, "--guidance", &guide, "--scale", "1", "--upsampler", &upsampler];
    studio.drawn(1, "unconditional", "guided-stack", &guided);
}

#[test]
fn guidance_without_strength_changes_nothing() {
    let studio = Studio::new();
    studio.train("dropped", &["--set", "model.class_dropout=0.5"]);
    let worse = format!("auto={}", studio.path("base/checkpoints/step-000000002"));
    let draw = |out: &str, model: &str, arguments: &[&str]| {
        studio.drawn(1, model, out, &[&["--num", NUM][..], arguments].concat());
        studio.npz(out)
    };
    let plain = draw("plain", "base", &[]);
    assert!(draw("auto-1", "base", &["--guidance", &worse, "--scale", "1"]) == plain);
    assert!(draw("auto-3", "base", &["--guidance", &worse, "--scale", "3"]) != plain);
    // A strong guidance of a sampler of second order is told.
    let strong = |scale: &str, out: &str| {
        let solver = ["--num", NUM, "--sampler", "heun", "--steps", "20", "--no-clip"];
        let guided = [&solver[..], &["--guidance", &worse, "--scale", scale]].concat();
        studio.drawn(1, "base", out, &guided).stderr.contains("the guidance is strong for this sampler")
    };
    assert!(strong("1000", "strong") && !strong("1", "weak"));
    let plain = draw("plain-free", "dropped", &[]);
    assert!(draw("free-0", "dropped", &["--guidance", "free", "--scale", "0"]) == plain);
    assert!(draw("free-2", "dropped", &["--guidance", "free", "--scale", "2"]) != plain);
}

#[test]
fn a_job_goes_to_a_bucket_and_to_png_files() {
    let studio = Studio::new();
    let s3 = S3::start();
    let arguments = ["--num", NUM, "--format", "npz,png", "--batch-size", "4", "--part-images", "8", "--threads", "1"];
    let mut command = studio.command(2, "base", "s3://bucket/job", &arguments);
    let finished = run(command.envs(environment(s3.port)), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    studio.drawn(1, "base", "local", &["--num", NUM, "--format", "npz,png"]);
    let script = "
import io, sys, boto3, numpy as np
from PIL import Image
client = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', aws_access_key_id='test',
                      aws_secret_access_key='test')
read = lambda key: client.get_object(Bucket='bucket', Key='job/' + key)['Body'].read()
remote = read('samples_23x8x8x1.npz')
assert remote == open(sys.argv[2] + '/samples_23x8x8x1.npz', 'rb').read()
images = np.load(io.BytesIO(remote))['arr_0']
keys = sorted(o['Key'] for o in client.list_objects_v2(Bucket='bucket', Prefix='job/png/')['Contents'])
keys = [key for key in keys if key.endswith('.png')]
by_number = {int(key.rsplit('_', 1)[1][:-4]): key for key in keys}
for number, image in enumerate(images):
    png = np.asarray(Image.open(io.BytesIO(read(by_number[number][len('job/'):]))))
    assert np.array_equal(png, image[:, :, 0]), number
print(len(keys))
";
    let endpoint = format!("http://127.0.0.1:{}", s3.port);
    let output = Command::new(python()).args(["-c", script, &endpoint, &studio.path("local")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), NUM);
    // What is in a bucket can be the images of another command: a job, its npz file, or pictures.
    for (images, more) in
        [("", ["--num", "23"]), ("/samples_23x8x8x1.npz", ["--num", "23"]), ("/png", ["--labels", "0"])]
    {
        let (images, out) = (format!("s3://bucket/job{images}"), studio.path("latents.safetensors"));
        let mut encode = on_ranks(1, env!("CARGO_BIN_EXE_admiral"));
        encode.arg("encode").arg(studio.path("base")).args(["--images", &images, "--out", &out, "--threads", "1"]);
        let encoded = run(encode.args(["--respacing", "2"]).args(more).envs(environment(s3.port)), PATIENCE);
        assert_eq!(encoded.code, Some(0), "{images}: {}", encoded.stderr);
        assert!(encoded.stdout.contains("23 latents"), "{images}: {}", encoded.stdout);
    }
    for (images, reason) in [("s3://bucket/nothing", "and no picture"), ("s3://bucket/no.npz", "there is no such file")]
    {
        let mut encode = on_ranks(1, env!("CARGO_BIN_EXE_admiral"));
        encode
            .arg("encode")
            .arg(studio.path("base"))
            .args(["--images", images, "--out"])
            .arg(studio.path("x.safetensors"));
        let refused = run(encode.envs(environment(s3.port)), PATIENCE);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
        assert!(refused.stderr.contains(reason), "{images}: {}", refused.stderr);
    }
}

#[test]
fn what_cannot_be_drawn_is_refused_before_anything_is_written() {
    let studio = Studio::new();
    let classifier = studio.classifier();
    studio.train("other-classes", &["--set", "task=classifier", "--set", "model.num_classes=7"]);
    studio.train(
        "other-size",
        &["--set", "task=classifier", "--set", "model.image_size=4", "--set", "model.channel_mult=[1]"],
    );
    studio.train("other-noise", &["--set", "task=classifier", "--set", "diffusion.noise_schedule=linear"]);
    studio.train("upsampler", &["--set", "task=super_resolution", "--set", "model.small_size=4"]);
    let guided = |name: &str| format!("classifier={}", studio.path(name));
    let (classes, size, noise) = (guided("other-classes"), guided("other-size"), guided("other-noise"));
    let (base, upsampler, missing) = (studio.path("base"), studio.path("upsampler"), studio.path("missing.npz"));
    let script = "import sys, numpy as np; f, s = sys.argv[1], sys.argv[2]
images = np.zeros([23, 4, 4, 1], dtype=s) if s != 'shape' else np.zeros([23, 5, 5, 1], dtype='uint8')
np.savez(f, images)";
    for (file, kind) in [("floats.npz", "float32"), ("shape.npz", "shape"), ("no-labels.npz", "uint8")] {
        assert!(Command::new(python()).args(["-c", script, &studio.path(file), kind]).status().unwrap().success());
    }
    let (floats, shape, no_labels) =
        (studio.path("floats.npz"), studio.path("shape.npz"), studio.path("no-labels.npz"));
    let auto = format!("auto={}", studio.path("classifier"));
    studio.train("small", &["--set", "model.image_size=4", "--set", "model.channel_mult=[1]"]);
    let (stack, guided_preset) = (studio.path("stack.yaml"), studio.path("guided.yaml"));
    std::fs::write(&stack, "upsampler: {sampler: ddpm}\n").unwrap();
    std::fs::write(&guided_preset, "guidance: {kind: classifier, scale: 1}\n").unwrap();
    let cases: Vec<(&str, Vec<&str>, &str)> = vec![
        ("base", vec!["--guidance", &classes, "--scale", "1"], "model.num_classes is 3"),
        ("base", vec!["--guidance", &size, "--scale", "1"], "model.image_size is 8"),
        ("base", vec!["--guidance", &noise, "--scale", "1"], "diffusion.noise_schedule"),
        ("base", vec!["--guidance", &classifier, "--scale", "NaN"], "--scale: is NaN"),
        ("base", vec!["--guidance", &classifier], "--scale"),
        ("base", vec!["--guidance", "free", "--scale", "1"], "class_dropout"),
        ("base", vec!["--guidance", &auto, "--scale", "1"], "is of task classifier"),
        ("base", vec!["--sampler", "ddim", "--set", "order=2"], "order"),
        ("base", vec!["--set", "sampler=dpm9"], "sampler"),
        ("base", vec!["--set", "no_such_field=1"], "no_such_field"),
        ("base", vec!["--labels", "0,3"], "3 is not a class of this model"),
        ("base", vec!["--labels", "-1,0"], "-1 is not a class of this model"),
        ("base", vec!["--guidance", &classifier, "--scale", "-1"], "--scale: is -1"),
        ("base", vec!["--preset", &stack], "name the second one with --upsampler"),
        ("base", vec!["--preset", &guided_preset], "--guidance classifier=CHECKPOINT, which is not asked for"),
        ("small", vec!["--upsampler", &upsampler, "--upsampler-set", "batch_size=2"], "set it with --batch-size"),
        ("base", vec!["--labels-from", &missing], "missing.npz"),
        ("base", vec!["--labels-from", &no_labels], "arr_1"),
        ("base", vec!["--part-images", "6"], "--part-images"),
        ("base", vec!["--low-res", &floats], "not an upsampler"),
        ("base", vec!["--upsampler", &base], "--upsampler needs one of task super_resolution"),
        ("base", vec!["--upsampler", &upsampler], "enlarges images of 4 pixels"),
        ("upsampler", vec![], "--low-res"),
        ("upsampler", vec!["--low-res", &floats], "uint8"),
        ("upsampler", vec!["--low-res", &shape], "5 x 5 pixels"),
        ("upsampler", vec!["--low-res", &no_labels], "have no classes"),
        ("classifier", vec![], "is a classifier"),
    ];
    for (model, arguments, expected) in cases {
        let out = studio.path("refused");
        let all = [&["--num", NUM, "--batch-size", "4"][..], &arguments].concat();
        let refused = run(&mut studio.command(1, model, &out, &all), PATIENCE);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{arguments:?}: {}", refused.stderr);
        assert!(!Path::new(&out).exists(), "{arguments:?} left {out}");
    }
    // One of several ranks prints the message.
    let all = ["--num", NUM, "--batch-size", "4", "--labels", "0,3"];
    let refused = run(&mut studio.command(2, "base", &studio.path("refused"), &all), PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(!studio.place.path("refused").exists());
    // A folder with other files is not touched.
    std::fs::create_dir(studio.place.path("full")).unwrap();
    std::fs::write(studio.place.path("full/notes.txt"), "mine").unwrap();
    let refused = run(&mut studio.command(1, "base", &studio.path("full"), &["--num", NUM]), PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(studio.place.path("full")).unwrap().count(), 1);
    // Kernels are logged when weights are read.
    assert!(!refused.stderr.contains("fused operations"), "{}", refused.stderr);
    // Nor is anything written for weights that cannot be read.
    let folder = studio.place.path("upsampler/checkpoints/step-000000004/ema-0.9");
    let weights = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let small = studio.path("small.npz");
    let script = "import sys, numpy as np
np.savez(sys.argv[1], np.zeros([23, 4, 4, 1], dtype='uint8'), np.zeros([23], dtype='int64'))";
    assert!(Command::new(python()).args(["-c", script, &small]).status().unwrap().success());
    let grid = ["--low-res", &small, "--per-class", "8"];
    let refused = run(&mut studio.command(1, "upsampler", &studio.path("x.png"), &grid), PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(refused.stderr.contains("the grid has 24 images, but there are 23"), "{}", refused.stderr);
    let all = ["--num", NUM, "--low-res", &small];
    let damaged = run(&mut studio.command(2, "upsampler", &studio.path("refused"), &all), PATIENCE);
    assert_eq!((damaged.code, errors(&damaged).len()), (Some(64), 1), "{}", damaged.stderr);
    assert!(errors(&damaged)[0].ends_with("use the checkpoint of an earlier step"), "{}", damaged.stderr);
    assert!(!studio.place.path("refused").exists(), "{}", damaged.stderr);
}
