//! A run may die at any operation of a save: what it leaves is a verified checkpoint to go on from, and the end of that
//! is byte for byte the end of a run that nothing disturbed.

use crate::crash_walk::Walk;

#[test]
fn no_operation_of_a_save_on_a_folder_is_fatal() {
    Walk { ranks: 1, die_rank: 0, is_on_s3: false, stride: 1 }.over_all();
}

#[test]
fn no_operation_of_a_save_on_s3_is_fatal() {
    Walk { ranks: 1, die_rank: 0, is_on_s3: true, stride: 1 }.over_all();
}

#[test]
fn either_of_two_ranks_may_die() {
    for die_rank in [0, 1] {
        Walk { ranks: 2, die_rank, is_on_s3: false, stride: 5 }.over_all();
    }
}
