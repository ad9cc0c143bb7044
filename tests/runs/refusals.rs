//! What a run refuses before its first step, and how soon it ends when it is asked to: mistakes and faults that users met.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::mpirun::{Running, run};
use crate::runs::{PATIENCE, Place, errors};

/// A port at which nobody listens.
fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Writes `count` pictures of 8 x 8 pixels for each class into folders of these names.
fn pictures(folder: &Path, classes: &[&str], count: u8) {
    for (number, class) in classes.iter().enumerate() {
        std::fs::create_dir_all(folder.join(class)).unwrap();
        for picture in 0..count {
            let file = std::fs::File::create(folder.join(class).join(format!("{picture}.png"))).unwrap();
            let pixels = vec![40 * number as u8 + picture; 64];
            let encoder = image::codecs::png::PngEncoder::new(file);
            image::ImageEncoder::write_image(encoder, &pixels, 8, 8, image::ExtendedColorType::L8).unwrap();
        }
    }
}

/// The arguments of a run on pictures in folders.
fn on_pictures(folder: &Path) -> Vec<String> {
    let path = format!("data.path={}", folder.display());
    let fields = ["data.source=folder", "data.classes=folder", "data.label_path=null", "training.steps=2", &path];
    fields.iter().flat_map(|field| ["--set".to_owned(), (*field).to_owned()]).collect()
}

/// Checks that a command ends with one message, code 64 and no run's folder.
fn refused(place: &Place, command: &mut Command, part: &str) {
    let finished = run(command, PATIENCE);
    assert!(!finished.timed_out, "{command:?} hangs");
    assert_eq!((finished.code, errors(&finished).len()), (Some(64), 1), "{}", finished.stderr);
    assert!(errors(&finished)[0].contains(part), "no {part:?} in {}", finished.stderr);
    assert!(!place.path("new").exists(), "it leaves a folder");
}

#[test]
fn ranks_with_different_images_are_refused() {
    let place = Place::new();
    pictures(&place.path("all"), &["a", "b", "c"], 3);
    pictures(&place.path("fewer"), &["a", "b", "c"], 2);
    pictures(&place.path("renamed"), &["a", "b", "x"], 3);
    for other in ["fewer", "renamed"] {
        let theirs = format!("data.path={}", place.path(other).display());
        let script = format!("[ $OMPI_COMM_WORLD_RANK = 1 ] && set -- \"$@\" --set {theirs}; exec \"$@\"");
        let arguments = on_pictures(&place.path("all"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = place.train_through(&["sh", "-c", &script, "sh"], 2, "new", &arguments);
        refused(&place, &mut command, "rank 1");
    }
}

#[test]
fn validation_images_have_the_classes_of_training_by_their_names() {
    let place = Place::new();
    pictures(&place.path("all"), &["a", "b", "c"], 4);
    pictures(&place.path("fewer"), &["b", "c"], 4);
    pictures(&place.path("others"), &["b", "c", "d"], 4);
    let train = |folder: &str, validation: &str| {
        let validation = format!("data.validation_path={}", place.path(validation).display());
        let mut arguments = on_pictures(&place.path("all"));
        for field in ["task=classifier", &validation, "classifier.validation_interval=1"] {
            arguments.extend(["--set".to_owned(), field.to_owned()]);
        }
        place.train(1, folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    refused(&place, &mut train("new", "others"), "\"d\"");
    let finished = run(&mut train("fewer-run", "fewer"), PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

#[test]
fn a_process_that_a_scheduler_started_with_others_does_not_train_alone() {
    let place = Place::new();
    for variables in [
        &[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")][..],
        &[("JSM_NAMESPACE_SIZE", "2"), ("JSM_NAMESPACE_RANK", "0")],
        &[("MPI_LOCALNRANKS", "2"), ("MPI_LOCALRANKID", "0")],
        &[("LSB_DJOB_NUMPROC", "4"), ("LSF_PM_TASKID", "1")],
        &[("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")],
        &[("ALPS_APP_PE", "1")],
        &[("PALS_RANKID", "1")],
        &[("PMIX_RANK", "0")],
    ] {
        let mut command = place.train(1, "new", &[]);
        command.envs(variables.iter().copied());
        refused(&place, &mut command, variables[0].0);
    }
}

#[test]
fn paths_numbers_and_variables_that_cannot_be_meant_are_refused_by_name() {
    let place = Place::new();
    for (field, part) in [
        ("run.folder=~/run", "run.folder"),
        ("data.path=$HOME/images", "data.path"),
        ("data.prefetch=18446744073709551615", "data.prefetch"),
        ("launch.stall_seconds=18446744073709551615", "launch.stall_seconds"),
        ("training.global_batch=256000000000", "training.global_batch"),
        ("sampling.samples_per_class=4000000000", "sampling.samples_per_class"),
        ("checkpoint.url=s3://me:hush@bucket/x", "(secret, not shown)@bucket"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        let finished =
            run(command.args(["config", "show"]).arg(place.path("tiny.yaml")).args(["--set", field]), PATIENCE);
        assert_eq!(finished.code, Some(64), "{field}: {}{}", finished.stdout, finished.stderr);
        assert!(finished.stderr.contains(part) && !finished.stderr.contains("hush@"), "{field}: {}", finished.stderr);
    }
    let port = unused_port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let usual = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
    ];
    for (variable, value) in [
        ("AWS_ENDPOINT_URL", Some(&b"localhost:9000"[..])),
        ("AWS_ENDPOINT_URL", Some(b"")),
        ("AWS_ENDPOINT_URL", Some(b"http://127.0.0.1:1/?x=1")),
        // Without its endpoint, the request would go to Amazon.
        ("AWS_ENDPOINT_URL", Some(b"http://127.0.0.1:1\xff")),
        ("AWS_ACCESS_KEY_ID", Some(b"id\n")),
        ("AWS_REGION", Some(b"us-east-1\r")),
        ("AWS_CONDITIONAL_PUT", Some(b"foo")),
        ("AWS_PROXY_URL", Some(b"http://me:hush@[")),
        ("SSL_CERT_FILE", Some(b"/no/such/file")),
        ("RUST_LOG", Some(b"\xff")),
        ("ADMIRAL_ATTEMPT", Some(b"abc")),
        ("AWS_ALLOW_HTTP", None),
        ("AWS_SECRET_ACCESS_KEY", None),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_admiral"));
        command.args(["checkpoint", "list", "s3://bucket/p"]).env_clear().env("PATH", "/usr/bin:/bin").envs(usual);
        if let Some(library_path) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", library_path);
        }
        match value {
            Some(value) => command.env(variable, OsStr::from_bytes(value)),
            None => command.env_remove(variable),
        };
        let finished = run(&mut command, PATIENCE);
        assert_eq!((finished.code, errors(&finished).len()), (Some(64), 1), "{variable}: {}", finished.stderr);
        assert!(errors(&finished)[0].contains(variable), "{variable}: {}", finished.stderr);
        assert!(!finished.stderr.contains("hush"), "{}", finished.stderr);
    }
}

#[test]
fn a_run_that_cannot_reach_its_store_ends_when_it_is_asked_to() {
    let place = Place::new();
    let endpoint = format!("http://127.0.0.1:{}", unused_port());
    let mut command = place.train(1, "run", &["--set", "checkpoint.url=s3://bucket/run"]);
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "key").env("RUST_LOG", "warn,admiral=debug");
    let running = Running::start(&mut command);
    // The folder is made right before the store is asked.
    let end = Instant::now() + PATIENCE;
    while !place.path("run").exists() {
        assert!(Instant::now() < end, "no folder");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal(libc::SIGTERM);
    let finished = running.finish(PATIENCE);
    assert_eq!((finished.timed_out, finished.code), (false, Some(75)), "{}", finished.stderr);
    assert!(finished.stderr.contains("before the first step"), "{}", finished.stderr);
}

#[test]
fn a_run_whose_images_do_not_come_ends_when_it_is_asked_to() {
    let place = Place::new();
    pictures(&place.path("all"), &["a", "b", "c"], 3);
    let mut arguments = on_pictures(&place.path("all"));
    arguments.extend(["--set", "training.steps=1000000", "--set", "training.save_interval=1000000"].map(str::to_owned));
    let mut command = place.train(1, "run", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let flag = place.path("frozen");
    command.env("LD_PRELOAD", place.frozen_disk()).env("FROZEN_PROGRAM", "admiral").env("FROZEN_FLAG", &flag);
    command.env("FROZEN_FOLDER", place.path("all"));
    let running = Running::start(&mut command);
    let end = Instant::now() + PATIENCE;
    while !place.path("run/tensorboard").exists() {
        assert!(Instant::now() < end, "no step");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::write(&flag, "").unwrap();
    // The batches that were read ahead are used up by then.
    std::thread::sleep(Duration::from_secs(2));
    running.signal(libc::SIGTERM);
    let finished = running.finish(PATIENCE);
    assert_eq!((finished.timed_out, finished.code), (false, Some(75)), "{}", finished.stderr);
    assert!(finished.stderr.contains("images cannot be read"), "{}", finished.stderr);
}

#[test]
fn a_run_does_not_write_through_a_link_out_of_its_folder() {
    let place = Place::new();
    let (folder, elsewhere) = (place.path("run"), place.path("elsewhere"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.join("tensorboard")).unwrap();
    let refused = run(&mut place.train(1, "run", &["--set", "training.steps=1"]), PATIENCE);
    assert_eq!((refused.code, errors(&refused).len()), (Some(64), 1), "{}", refused.stderr);
    assert!(errors(&refused)[0].contains("tensorboard is a symbolic link that leads out"), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn one_rank_tells_a_wrong_command_line() {
    let mut command = crate::mpirun::on_ranks(3, env!("CARGO_BIN_EXE_admiral"));
    let finished = run(command.args(["sample", "runs/own", "--out", "grid.png", "--seed", "x"]), PATIENCE);
    assert_eq!((finished.code, errors(&finished).len()), (Some(2), 1), "{}", finished.stderr);
    assert!(errors(&finished)[0].contains("--seed"), "{}", finished.stderr);
}
