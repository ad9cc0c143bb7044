//! Kills at random moments, and the walk over all operations of a save: a short part of it always, the rest by
//! `make chaos`.

use crate::crash_walk::Walk;
use crate::kills;

#[test]
fn a_few_kills_change_nothing() {
    kills::survive(2, 4);
}

#[test]
#[ignore = "minutes: make chaos"]
fn many_kills_of_one_rank_change_nothing() {
    kills::survive(1, 40);
}

#[test]
#[ignore = "minutes: make chaos"]
fn many_kills_among_two_ranks_change_nothing() {
    kills::survive(2, 40);
}

#[test]
#[ignore = "minutes: make chaos"]
fn many_kills_among_four_ranks_change_nothing() {
    kills::survive(4, 40);
}

#[test]
#[ignore = "minutes: make chaos"]
fn no_operation_is_fatal_to_two_ranks_on_s3() {
    for die_rank in [0, 1] {
        Walk { ranks: 2, die_rank, is_on_s3: true, stride: 1 }.over_all();
    }
}
