//! Training with the real program, on one rank and under the real mpirun.

use std::process::Command;
use std::time::Duration;

use crate::mpirun::{Running, run, session};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};

/// Checks that `steps` steps without interruption end with the same bytes as half of them, SIGKILL and the other half.
fn resumes_exactly(ranks: usize, steps: u64, arguments: &[&str]) {
    let place = Place::new();
    let half = steps / 2;
    let (length, interval) = (format!("training.steps={steps}"), format!("training.save_interval={half}"));
    let arguments = [arguments, &["--set", &length, "--set", &interval]].concat();
    place.trained(ranks, "straight", &arguments);

    // Kill the run after half of the steps. Its later steps must not matter.
    let endless = [&arguments[..], &["--set", "training.steps=100000"]].concat();
    let running = Running::start(&mut place.train(ranks, "killed", &endless));
    wait_until("half of the steps are published", || place.is_published("killed", half));
    running.kill();
    drop(running);
    for step in half + 1..10_000 {
        // It may have published more checkpoints.
        let _ = std::fs::remove_dir_all(place.path(&format!("killed/checkpoints/step-{step:09}")));
    }
    place.trained(ranks, "killed", &[&arguments[..], &["--resume", "latest"]].concat());
    assert_same(&place.tensors("straight", steps), &place.tensors("killed", steps));
}

#[test]
fn one_rank_resumes_exactly() {
    resumes_exactly(1, 20, &[]);
}

#[test]
fn two_ranks_resume_exactly() {
    resumes_exactly(2, 20, &[]);
}

#[test]
fn half_precision_and_a_learning_timestep_sampler_resume_exactly() {
    let arguments = ["--set", "precision.mode=fp16", "--set", "diffusion.timestep_sampler=loss-second-moment"];
    let few = ["--set", "diffusion.diffusion_steps=4", "--set", "sampling.timestep_respacing=\"2\""];
    // Few, because half precision is slow on CPUs, but more than the sampler needs to learn.
    resumes_exactly(2, 12, &[arguments.as_slice(), few.as_slice()].concat());
}

#[test]
fn class_dropout_trains_the_null_class_and_resumes_exactly() {
    let arguments = ["--set", "model.class_dropout=0.3"];
    resumes_exactly(2, 6, &arguments);

    let place = Place::new();
    let short = ["--set", "training.steps=3", "--set", "training.save_interval=1"];
    place.trained(1, "run", &[&arguments[..], &short].concat());
    let null_row = |step| {
        let table = place.tensors("run", step).remove("master/label_emb.weight").unwrap();
        // 3 classes and the null class.
        table[table.len() / 4 * 3..].to_vec()
    };
    // Adam does not move a row without a gradient.
    assert_ne!(null_row(1), null_row(3));
}

#[test]
fn ranks_and_accumulation_do_not_change_losses_or_gradients() {
    let place = Place::new();
    let plain = ["--set", "model.dropout=0"];
    place.trained(1, "one", &plain);
    place.trained(2, "two", &[&plain[..], &["--set", "training.microbatch=4"]].concat());
    place.trained(1, "accumulated", &[&plain[..], &["--set", "training.microbatch=2"]].concat());
    // Adam hides gradients that are too large by a factor. Their norms do not.
    for tag in ["loss", "grad_norm"] {
        let one = place.curve("one", tag);
        assert_eq!(one.len(), 20);
        for other in ["two", "accumulated"] {
            for (step, (a, b)) in one.iter().zip(place.curve(other, tag)).enumerate() {
                assert!((a - b).abs() < 5e-3 * a, "{other} {tag} at step {step}: {b}, alone {a}");
            }
        }
    }
}

#[test]
fn sums_during_backward_have_the_same_bits_as_sums_after_it() {
    // Few, because half precision is slow on CPUs.
    const STEPS: u64 = 6;
    let place = Place::new();
    for precision in ["fp32", "fp16"] {
        let name = |way: &str| format!("{precision}-{way}");
        let train = |way: &str, fields: [&str; 2]| {
            let fields = [
                format!("precision.mode={precision}"),
                format!("training.steps={STEPS}"),
                "training.microbatch=2".into(),
                fields[0].into(),
                fields[1].into(),
            ];
            let arguments: Vec<&str> = fields.iter().flat_map(|field| ["--set", field]).collect();
            place.trained(2, &name(way), &arguments);
            place.tensors(&name(way), STEPS)
        };
        let after = train("after", ["training.overlap_all_reduce=false", "training.bucket_bytes=null"]);
        // About forty buckets, and one.
        for bytes in ["20000", "1000000000"] {
            let fields = ["training.overlap_all_reduce=true", &format!("training.bucket_bytes={bytes}")];
            assert_same(&after, &train(bytes, fields));
        }
    }
    let exposed = place.curve("fp32-20000", "all_reduce_exposed_seconds");
    let whole = place.curve("fp32-20000", "all_reduce_seconds");
    assert_eq!(exposed.len() as u64, STEPS);
    assert!(
        exposed.iter().zip(&whole).all(|(exposed, whole)| exposed <= whole && *whole > 0.0),
        "{exposed:?} {whole:?}"
    );
}

#[test]
fn bench_data_times_the_loader() {
    let place = Place::new();
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        command.args(["bench", "loader", "--json", "--images", "64", "--rounds", "2", "--config"]);
        run(command.arg(place.path("tiny.yaml")).args(arguments), PATIENCE)
    };
    let finished = bench(&["--workers", "1,2"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let measured: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let of = |number: usize, field: &str| measured["threads"][number][field].as_f64().unwrap();
    assert_eq!((of(0, "workers"), of(1, "workers")), (1.0, 2.0));
    assert!((0..2).all(|number| of(number, "least") > 0.0 && of(number, "least") <= of(number, "most")));
    assert_eq!(bench(&["--workers", "0"]).code, Some(64));
    assert_eq!(bench(&["--set", "data.path=/nowhere"]).code, Some(64));
}

#[test]
fn bench_ops_times_operations() {
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        let few = ["bench", "ops", "--json", "--parameters", "1", "--threads", "1", "--rounds", "1", "--warmup", "0"];
        run(command.args(few).args(arguments), PATIENCE)
    };
    let finished = bench(&["--device", "cpu"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let measured: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(measured["device"], "Cpu");
    let operations = measured["runs"][0]["operations"].as_array().unwrap();
    for name in ["Adam", "GroupNorm", "Attention"] {
        assert!(operations.iter().any(|of| of["operation"].as_str().unwrap().starts_with(name)), "{name}");
    }
    assert!(operations.iter().all(|of| of["seconds"]["median"].as_f64().unwrap() > 0.0));
    if !tch::Cuda::is_available() {
        let refused = bench(&["--device", "cuda"]);
        assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    }
}

#[test]
fn bench_step_writes_a_trace() {
    let place = Place::new();
    let trace = place.path("trace.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
    command.args(["bench", "step", "--json", "--steps", "1", "--warmup", "0", "--config"]).arg(place.path("tiny.yaml"));
    let finished = run(command.arg("--trace").arg(&trace), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let measured: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    // Gradients of weights are copied to flat memory. Feature maps are not copied for the next operation.
    let copies = measured["copies"].as_array().unwrap();
    let within = |name: &str| copies.iter().any(|copies| copies["within"] == name);
    assert!(!within("aten::_convolution") && !within("aten::upsample_nearest2d_backward"), "{measured:#}");
    let of = |field: &str| measured[field].as_f64().unwrap();
    assert!(of("fastest_step_seconds") <= of("step_seconds") && of("step_seconds") <= of("slowest_step_seconds"));
    for limit in ["copy_bytes_per_second", "matrix_flops_per_second"] {
        let [least, median, most] = ["least", "median", "most"].map(|end| measured[limit][end].as_f64().unwrap());
        assert!(0.0 < least && least <= median && median <= most, "{measured:#}");
    }
    // The roofline's 1 GiB is taken after the steps, so the peak of this small network's process is lower.
    let peak = measured["peak_memory_bytes"].as_u64().unwrap();
    assert!((10 << 20..1 << 30).contains(&peak), "{peak}");
    // The norms read gradients and masters. Adam reads gradients, and reads and writes masters, means, variances and
    // two averages.
    let bytes = measured["optimizer_bytes"].as_u64().unwrap();
    assert!(bytes > 0 && bytes.is_multiple_of(4 * (2 + 1 + 2 * 5)), "{bytes}");
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let names: Vec<&str> = trace["traceEvents"].as_array().unwrap().iter().filter_map(|e| e["name"].as_str()).collect();
    assert!(names.iter().any(|name| name.contains("convolution_backward")), "no backward in {} events", names.len());
}

#[test]
fn classifiers_and_upsamplers_train_resume_and_sample() {
    let place = Place::new();
    let sample = |run_folder: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        command.arg("sample").arg(place.path(run_folder)).arg("--out").arg(place.path("grid.png"));
        run(&mut command, PATIENCE)
    };
    let short = ["--set", "training.steps=4", "--set", "training.save_interval=2"];
    let longer = ["--set", "training.steps=6", "--set", "training.save_interval=2", "--resume", "latest"];

    let classifier = ["--set", "task=classifier", "--set", "data.random_crop=true"];
    let validation = ["--set", "data.validation_fraction=0.3", "--set", "classifier.validation_interval=2"];
    let classifier = [classifier, validation].concat();
    place.trained(2, "classifier", &[&classifier[..], &short].concat());
    place.trained(1, "classifier", &[&classifier[..], &longer].concat());
    assert!(place.is_published("classifier", 6));
    let refused = sample("classifier");
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(refused.stderr.contains("is a classifier"));

    let upsampler = ["--set", "task=super_resolution", "--set", "model.small_size=4"];
    let drawing = ["--set", "training.sample_interval=2", "--set", "precision.mode=bf16"];
    let upsampler = [upsampler, drawing].concat();
    place.trained(1, "upsampler", &[&upsampler[..], &short].concat());
    place.trained(2, "upsampler", &[&upsampler[..], &longer].concat());
    let drawn = sample("upsampler");
    assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
    let png = std::fs::read(place.path("grid.png")).unwrap();
    let side = |at: usize| u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]);
    // 2 columns and 3 rows of 8 pixels, with 2 pixels between and around them.
    assert_eq!((side(16), side(20)), (2 * 10 + 2, 3 * 10 + 2));
}

#[test]
fn bad_input_has_one_message_and_the_right_code() {
    let place = Place::new();
    place.trained(1, "trained", &["--set", "training.steps=2"]);
    let before = place.tensors("trained", 2);
    std::fs::write(place.path("file"), "not a folder").unwrap();
    let blocked = format!("run.folder={}", place.path("file/run").display());
    let cases: [(&str, &[&str], &str); 7] = [
        ("new", &["--set", "data.path=/no/such/file"], "/no/such/file"),
        ("new", &["--set", "model.num_head_channels=null", "--set", "model.num_heads=3"], "num_heads"),
        ("new", &["--set", "training.global_batch=7"], "7 samples"),
        ("new", &["--set", "model.num_chanels=32"], "num_channels"),
        ("new", &["--set", &blocked], "file/run"),
        ("trained", &[], "--resume latest"),
        ("trained", &["--resume", "latest", "--set", "model.num_channels=64"], "another model"),
    ];
    let images = format!("data.validation_path={}", place.path("images").display());
    let unlabelled = ["--set", "task=classifier", "--set", &images];
    let cases = cases.into_iter().chain([("new", unlabelled.as_slice(), "0 classes")]);
    for (folder, arguments, part) in cases {
        let finished = run(&mut place.train(2, folder, arguments), PATIENCE);
        assert!(!finished.timed_out, "{arguments:?} hangs");
        assert_eq!(finished.code, Some(64), "{arguments:?}: {}", finished.stderr);
        assert_eq!(errors(&finished).len(), 1, "{arguments:?}: {}", finished.stderr);
        assert!(errors(&finished)[0].contains(part) || finished.stderr.contains(part), "{}", finished.stderr);
        assert!(!place.path("new").exists(), "{arguments:?} leaves a folder");
    }
    assert_same(&before, &place.tensors("trained", 2));
}

#[test]
fn a_diverged_run_reports_the_step_once_and_keeps_its_checkpoints() {
    let place = Place::new();
    place.trained(2, "run", &["--set", "training.steps=2"]);
    let before = place.tensors("run", 2);
    let wild = ["--resume", "latest", "--set", "optimizer.learning_rate=1e30"];
    let finished = run(&mut place.train(2, "run", &wild), PATIENCE);
    assert_eq!((finished.code, errors(&finished).len()), (Some(65), 1), "{}", finished.stderr);
    for part in ["diverged at step", "first bad gradient", "timestep"] {
        assert!(errors(&finished)[0].contains(part), "{}", finished.stderr);
    }
    assert_same(&before, &place.tensors("run", 2));
}

#[test]
fn a_broken_image_stops_the_run_by_name_or_is_skipped() {
    let place = Place::new();
    let pictures = place.path("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for (number, class) in ["a", "b", "c", "a", "b", "c"].into_iter().enumerate() {
        let file = std::fs::File::create(pictures.join(format!("{class}_{number}.png"))).unwrap();
        let pixels = vec![(40 * number) as u8; 64];
        let encoder = image::codecs::png::PngEncoder::new(file);
        image::ImageEncoder::write_image(encoder, &pixels, 8, 8, image::ExtendedColorType::L8).unwrap();
    }
    std::fs::write(pictures.join("b_torn.png"), b"\x89PNG\r\n\x1a\n and no more").unwrap();
    let path = format!("data.path={}", pictures.display());
    let data = ["--set", "data.source=folder", "--set", "data.classes=file_name", "--set", "data.label_path=null"];
    let data = [&data[..], &["--set", &path, "--set", "training.steps=3"]].concat();
    let stopped = run(&mut place.train(2, "stop", &data), PATIENCE);
    assert!(!stopped.timed_out);
    assert_eq!(stopped.code, Some(64), "{}", stopped.stderr);
    assert!(!errors(&stopped).is_empty());
    assert!(errors(&stopped).iter().all(|line| line.contains("b_torn.png")), "{}", stopped.stderr);
    let skipped = place.trained(2, "skip", &[&data[..], &["--set", "data.on_broken_image=skip"]].concat());
    assert!(skipped.stderr.contains("b_torn.png"), "{}", skipped.stderr);
}

/// Waits until a run trains. Returns its ranks' processes.
fn ranks_at_work(place: &Place, running: &Running, num_ranks: usize) -> Vec<i32> {
    wait_until("training has begun", || place.path("run/tensorboard").exists());
    std::thread::sleep(Duration::from_millis(500));
    let program = env!("CARGO_BIN_EXE_admiral");
    let is_rank = |id: &i32| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.as_os_str() == program);
    let ranks: Vec<i32> = session(running.id()).into_iter().filter(is_rank).collect();
    assert_eq!(ranks.len(), num_ranks);
    ranks
}

#[test]
fn a_signal_to_one_rank_publishes_a_checkpoint_and_exits_75() {
    let endless = ["--set", "training.steps=100000", "--set", "training.save_interval=100000"];
    for (num_ranks, signal, rank) in
        [(2, libc::SIGTERM, 1), (2, libc::SIGUSR1, 0), (4, libc::SIGTERM, 2), (4, libc::SIGUSR1, 3)]
    {
        let place = Place::new();
        let running = Running::start(&mut place.train(num_ranks, "run", &endless));
        let ranks = ranks_at_work(&place, &running, num_ranks);
        // SAFETY: the process belongs to this test.
        unsafe { libc::kill(ranks[rank], signal) };
        let finished = running.finish(PATIENCE);
        assert!(!finished.timed_out);
        assert_eq!(finished.code, Some(75), "{}", finished.stderr);
        let steps = std::fs::read_dir(place.path("run/checkpoints")).unwrap().count();
        assert_eq!(steps, 3, "one checkpoint, latest.json and owner.json");
        if num_ranks > 2 {
            continue;
        }
        let on = ["--set", "training.steps=100000", "--resume", "latest"];
        let resumed = Running::start(&mut place.train(1, "run", &on));
        let num_event_files = || std::fs::read_dir(place.path("run/tensorboard")).unwrap().count();
        wait_until("training has begun again", || num_event_files() == 2);
        std::thread::sleep(Duration::from_millis(500));
        resumed.signal(libc::SIGINT);
        assert_eq!(resumed.finish(PATIENCE).code, Some(75));
    }
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    let place = Place::new();
    let endless = ["--set", "training.steps=100000", "--set", "training.save_interval=100000"];
    // As `nohup` does, and a shell for a command in the background.
    let starter = ["sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"];
    let running = Running::start(&mut place.train_through(&starter, 1, "run", &endless));
    ranks_at_work(&place, &running, 1);
    // The second SIGINT would end the process at once.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGINT] {
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(ranks_at_work(&place, &running, 1).len(), 1);
    running.signal(libc::SIGTERM);
    let finished = running.finish(PATIENCE);
    assert_eq!(finished.code, Some(75), "{}", finished.stderr);
    assert_eq!(finished.stderr.matches("asked to stop").count(), 1, "{}", finished.stderr);
}

#[test]
fn a_run_whose_messages_nobody_reads_is_stopped_with_a_checkpoint() {
    let place = Place::new();
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // The pipe has a reader, and no room.
    let mut nobody = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    std::io::Write::write_all(&mut nobody, &[b'x'; 1 << 16]).unwrap();
    let endless = ["--set", "training.steps=100000", "--set", "training.save_interval=100000"];
    let into_pipe = "pipe=$1; shift; exec \"$@\" 2>\"$pipe\"";
    let starter = ["sh", "-c", into_pipe, "sh", pipe.to_str().unwrap()];
    let running = Running::start(&mut place.train_through(&starter, 1, "run", &endless));
    ranks_at_work(&place, &running, 1);
    running.signal(libc::SIGTERM);
    let finished = running.finish(PATIENCE);
    assert!(!finished.timed_out, "it waits for a reader");
    assert_eq!(finished.code, Some(75));
    let steps = std::fs::read_dir(place.path("run/checkpoints")).unwrap();
    let names: Vec<String> = steps.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("step-")), "{names:?}");
}

#[test]
fn a_killed_rank_ends_all_ranks() {
    let place = Place::new();
    let running = Running::start(&mut place.train(2, "run", &["--set", "training.steps=100000"]));
    let ranks = ranks_at_work(&place, &running, 2);
    // SAFETY: the process belongs to this test.
    unsafe { libc::kill(ranks[1], libc::SIGKILL) };
    let leader = running.id();
    wait_until("the group is gone", || !session(leader).iter().any(|process| ranks.contains(process)));
    let finished = running.finish(PATIENCE);
    assert!(!finished.timed_out && finished.code != Some(0));
}
