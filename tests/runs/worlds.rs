//! A run sees the same samples whatever its number of ranks. A checkpoint location belongs to one run at a time.

use std::collections::BTreeMap;

use admiral_checkpoint::TrainingState;
use admiral_checkpoints_schema::Owner;

use crate::mpirun::{Running, run};
use crate::runs::{PATIENCE, Place, errors, wait_until};
use crate::stores::in_folder;

/// The timestep and a hash of image and noise of each sample that ranks have seen, by the sample's index.
type Samples = BTreeMap<u64, (String, String)>;

/// Trains up to `steps` steps, and adds the samples of all ranks to `samples`. No sample may occur twice.
fn watched(place: &Place, ranks: usize, name: &str, steps: u64, arguments: &[&str], samples: &mut Samples) {
    // Each rank logs to a separate file, so that lines do not mix.
    let log = place.path(&format!("{name}-to-{steps}")).display().to_string();
    let starter = ["sh", "-c", "exec \"$@\" 2>\"$0.${OMPI_COMM_WORLD_RANK:-0}\"", &log];
    let last = format!("training.steps={steps}");
    let arguments = [arguments, &["--set", &last, "--resume", "auto"]].concat();
    let mut command = place.train_through(&starter, ranks, name, &arguments);
    let finished = run(command.env("RUST_LOG", "info,admiral::samples=trace"), PATIENCE);
    let logs: Vec<String> =
        (0..ranks).map(|rank| std::fs::read_to_string(format!("{log}.{rank}")).unwrap_or_default()).collect();
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stderr, logs.concat());
    for (rank, text) in logs.iter().enumerate() {
        let seen = text.lines().filter_map(|line| line.split_once("admiral::samples: sample ")).map(|(_, rest)| rest);
        let mut num_seen = 0;
        for line in seen {
            let words: Vec<&str> = line.split(' ').collect();
            let ["timestep", timestep, "hash", hash] = words[1..] else { panic!("{line}") };
            let again = samples.insert(words[0].parse().unwrap(), (timestep.to_owned(), hash.to_owned()));
            assert_eq!(again, None, "{line}");
            num_seen += 1;
        }
        assert!(num_seen > 0, "rank {rank} of {ranks} sees no sample");
    }
}

fn state(place: &Place, name: &str, step: u64) -> TrainingState {
    let store = in_folder(&place.path(&format!("{name}/checkpoints")));
    store.checkpoint(step).unwrap().manifest().training.clone()
}

/// The numbers in a value, in order.
fn numbers(value: &serde_json::Value) -> Vec<f64> {
    match value {
        serde_json::Value::Array(values) => values.iter().flat_map(numbers).collect(),
        serde_json::Value::Object(fields) => fields.values().flat_map(numbers).collect(),
        other => other.as_f64().into_iter().collect(),
    }
}

/// Checks that a run on 2, then 4, then 1 rank sees the samples of an undisturbed run on one rank, and ends in the same
/// state.
fn any_world_sees_the_same(arguments: &[&str]) {
    let place = Place::new();
    let (mut undisturbed, mut changing) = (Samples::new(), Samples::new());
    watched(&place, 1, "undisturbed", 12, arguments, &mut undisturbed);
    for (ranks, steps) in [(2, 4), (4, 8), (1, 12)] {
        watched(&place, ranks, "changing", steps, arguments, &mut changing);
    }
    // 8 samples per step, without a gap.
    assert_eq!(undisturbed.keys().copied().collect::<Vec<_>>(), (0..96).collect::<Vec<_>>());
    assert_eq!(undisturbed, changing);

    let (left, right) = (state(&place, "undisturbed", 12), state(&place, "changing", 12));
    assert_eq!((right.step, right.next_sample_index), (12, 96));
    let exact = |state: &TrainingState| (state.next_sample_index, state.optimizer_steps, state.lg_loss_scale);
    assert_eq!(exact(&left), exact(&right));
    let [left, right] = [left, right].map(|state| numbers(&state.timestep_sampler.unwrap()));
    assert_eq!(left.len(), right.len());
    for (a, b) in left.iter().zip(&right) {
        // Floating-point numbers are summed in another order.
        assert!((a - b).abs() <= 0.02 * a.abs(), "{left:?}, {right:?}");
    }
}

#[test]
fn any_number_of_ranks_sees_the_same_samples() {
    any_world_sees_the_same(&[]);
}

#[test]
fn loss_scale_and_timestep_sampler_survive_a_change_of_ranks() {
    // The sampler draws uniformly until it has 10 losses of each timestep. With this many timesteps it still does so at
    // the end. Later draws would depend on losses, whose bits depend on the number of ranks.
    let learning = ["diffusion.timestep_sampler=loss-second-moment", "diffusion.diffusion_steps=16"];
    let more = ["precision.mode=fp16", "sampling.timestep_respacing=\"2\""];
    let arguments: Vec<&str> = learning.iter().chain(&more).flat_map(|field| ["--set", field]).collect();
    any_world_sees_the_same(&arguments);
}

#[test]
fn a_checkpoint_location_belongs_to_one_run_until_it_is_dead() {
    let place = Place::new();
    let endless = ["--set", "training.steps=100000", "--set", "training.save_interval=20"];
    let first = Running::start(&mut place.train(2, "run", &endless));
    wait_until("the first run has published a checkpoint", || place.is_published("run", 20));
    let checkpoints = place.path("run/checkpoints");
    let owner = || serde_json::from_slice::<Owner>(&std::fs::read(checkpoints.join("owner.json")).unwrap()).unwrap();
    let writer = owner().writer;

    for ranks in [1, 2] {
        let second = run(&mut place.train(ranks, "run", &[&endless[..], &["--resume", "auto"]].concat()), PATIENCE);
        assert_eq!((second.code, errors(&second).len()), (Some(64), 1), "{}", second.stderr);
        for part in [&writer.run_id, &writer.attempt_id, &writer.host, &checkpoints.display().to_string()] {
            assert!(errors(&second)[0].contains(part.as_str()), "{part}: {}", second.stderr);
        }
        assert_eq!(owner().writer, writer);
    }
    // A run with another folder and the same checkpoint location is refused too.
    let url = format!("checkpoint.url={}", checkpoints.display());
    let other = [&endless[..], &["--resume", "auto", "--set", &url]].concat();
    let third = run(&mut place.train(1, "other", &other), PATIENCE);
    assert_eq!((third.code, errors(&third).len()), (Some(64), 1), "{}", third.stderr);

    // The first run continues.
    let newest = || in_folder(&checkpoints).latest().unwrap().unwrap();
    let before = newest();
    wait_until("the first run has published another checkpoint", || newest() > before);
    first.kill();
    drop(first);

    let last = newest() / 20 * 20 + 10;
    let steps = format!("training.steps={last}");
    let heir = place.trained(1, "run", &["--resume", "auto", "--set", &steps]);
    assert!(heir.stderr.contains(&format!("from run {}", writer.run_id)), "{}", heir.stderr);
    // The first run's process is known to be dead, so the next run does not wait for its lease.
    assert!(!heir.stderr.contains("sign of life"), "{}", heir.stderr);
    assert_eq!((owner().writer.run_id == writer.run_id, owner().is_released), (true, true));
    assert_ne!(owner().writer.attempt_id, writer.attempt_id);
    assert!(place.is_published("run", last));
}
