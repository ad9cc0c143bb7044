//! A run dies at each store operation of a save. The next run resumes from an undamaged checkpoint and ends with the
//! same bytes as an undisturbed run.

use crate::crash_walk::Walk;

#[test]
fn a_run_survives_a_crash_at_every_operation_of_a_save_in_a_folder() {
    Walk { ranks: 1, die_rank: 0, is_on_s3: false, stride: 1 }.over_all();
}

#[test]
fn a_run_survives_a_crash_at_every_operation_of_a_save_on_s3() {
    Walk { ranks: 1, die_rank: 0, is_on_s3: true, stride: 1 }.over_all();
}

#[test]
fn two_ranks_survive_a_crash_of_either_during_a_save() {
    for die_rank in [0, 1] {
        Walk { ranks: 2, die_rank, is_on_s3: false, stride: 5 }.over_all();
    }
}
