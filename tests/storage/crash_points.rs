//! A run dies at each store operation of a save. The next run resumes from an undamaged checkpoint and ends with the
//! same bytes as an undisturbed run.

use crate::crash_walk::Walk;

#[test]
fn a_run_survives_a_crash_at_every_operation_of_a_save_in_a_folder() {
    Walk { ranks: 1, die_rank: 0, is_on_s3: false, stride: 1 }.over_all();
}

#[test]
fn a_run_survives_a_crash_at_some_operations_of_a_save_on_s3() {
    Walk { ranks: 1, die_rank: 0, is_on_s3: true, stride: 7 }.over_all();
}

#[test]
fn two_ranks_survive_a_crash_at_some_operations_of_a_save() {
    Walk { ranks: 2, die_rank: 1, is_on_s3: false, stride: 17 }.over_all();
}

/// Exhaustive tests.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: make test-long"]
    fn a_run_survives_a_crash_at_every_operation_of_a_save_on_s3() {
        Walk { ranks: 1, die_rank: 0, is_on_s3: true, stride: 1 }.over_all();
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn two_ranks_survive_a_crash_of_the_first_during_a_save() {
        Walk { ranks: 2, die_rank: 0, is_on_s3: false, stride: 5 }.over_all();
    }

    #[test]
    #[ignore = "long: make test-long"]
    fn two_ranks_survive_a_crash_of_the_second_during_a_save() {
        Walk { ranks: 2, die_rank: 1, is_on_s3: false, stride: 5 }.over_all();
    }
}
