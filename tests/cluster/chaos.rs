//! Kills at random times, and crashes at every operation of a save. Most of it runs only by `make chaos`.

use crate::crash_walk::Walk;
use crate::kills;

#[test]
fn a_run_survives_a_few_random_kills() {
    kills::survive(2, 4);
}

#[test]
#[ignore = "minutes: make chaos"]
fn one_rank_survives_many_random_kills() {
    kills::survive(1, 40);
}

#[test]
#[ignore = "minutes: make chaos"]
fn two_ranks_survive_many_random_kills() {
    kills::survive(2, 40);
}

#[test]
#[ignore = "minutes: make chaos"]
fn four_ranks_survive_many_random_kills() {
    kills::survive(4, 40);
}

#[test]
#[ignore = "minutes: make chaos"]
fn two_ranks_survive_a_crash_at_every_operation_of_a_save_on_s3() {
    for die_rank in [0, 1] {
        Walk { ranks: 2, die_rank, is_on_s3: true, stride: 1 }.over_all();
    }
}
