//! A bit that changes in the memory of one rank: the comparison of states detects it before it is in a checkpoint.

use crate::mpirun::run;
use crate::runs::{PATIENCE, Place, assert_same, errors};

/// A run of 8 samples a step on `ranks` ranks, one of which loses a bit after step 5.
fn flipped(place: &Place, ranks: usize, rank: usize) -> crate::mpirun::Finished {
    let rank = format!("faults.flip_bit_rank={rank}");
    let fields = ["training.steps=12", "training.save_interval=4", "faults.enabled=true", "faults.at_step=5", &rank];
    let arguments: Vec<&str> = fields.into_iter().flat_map(|field| ["--set", field]).collect();
    run(&mut place.train(ranks, "run", &arguments), PATIENCE)
}

#[test]
fn a_rank_whose_memory_changes_is_named_and_the_run_goes_on_from_before() {
    let place = Place::new();
    let finished = flipped(&place, 4, 2);
    assert!(!finished.timed_out && finished.code == Some(76), "{:?}: {}", finished.code, finished.stderr);
    let message = errors(&finished).into_iter().find(|line| line.starts_with("error: rank 2 of 4: ")).unwrap();
    for part in [
        "after step 8: rank 2 (",
        "and the other 3 ranks have different states",
        "in the parameters of time_embed.0.weight",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert!(place.is_published("run", 4) && !place.is_published("run", 8));

    let steps = ["--set", "training.steps=12", "--set", "training.save_interval=4"];
    place.trained(4, "run", &[&steps[..], &["--resume", "latest"]].concat());
    place.trained(4, "undisturbed", &steps);
    assert_same(&place.tensors("undisturbed", 12), &place.tensors("run", 12));
    assert!(!place.curve("run", "state_comparison_seconds").is_empty());
}

#[test]
fn of_two_ranks_that_differ_none_is_blamed() {
    let place = Place::new();
    let finished = flipped(&place, 2, 0);
    assert!(!finished.timed_out && finished.code == Some(76), "{:?}: {}", finished.code, finished.stderr);
    let [error] = errors(&finished)[..] else { panic!("{}", finished.stderr) };
    assert!(error.contains("no majority shows which is right"), "{error}");
    assert!(place.is_published("run", 4) && !place.is_published("run", 8));
}
