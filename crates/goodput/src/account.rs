//! The accounts to which time is charged.

use std::ops::{AddAssign, Index, IndexMut};

use serde::{Deserialize, Serialize};

/// What a second of a run was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// Steps whose result is part of the run.
    Productive,
    /// Steps that were done again later, because no checkpoint had them.
    Redone,
    /// Starting the programs, connecting the ranks, building the network.
    StartProgram,
    /// Opening the images.
    StartData,
    /// Restoring a checkpoint.
    StartRestore,
    /// The first step of an attempt.
    StartWarmUp,
    /// Waiting for the loader.
    DataWait,
    /// Waiting in exchanges for ranks that begin them later.
    StragglerWait,
    /// Exchanges with other ranks, after all have begun them.
    Exchange,
    /// The part of saves that training waits for.
    Checkpoint,
    /// Sample grids.
    Sampling,
    /// Validation and evaluation.
    Evaluation,
    /// From the last sign of life of a failed attempt until the launcher found the failure.
    FailureDetection,
    /// Until all processes of the failed attempt were gone.
    FailureShutdown,
    /// Until the start of the next attempt.
    FailureRestart,
    /// Examining the hosts before an attempt.
    Preflight,
    /// Nobody ran it.
    Down,
    /// Nobody ran it, after it was asked to stop.
    Preempted,
}

impl Account {
    /// All accounts.
    pub const ALL: [Self; 18] = [
        Self::Productive,
        Self::Redone,
        Self::StartProgram,
        Self::StartData,
        Self::StartRestore,
        Self::StartWarmUp,
        Self::DataWait,
        Self::StragglerWait,
        Self::Exchange,
        Self::Checkpoint,
        Self::Sampling,
        Self::Evaluation,
        Self::FailureDetection,
        Self::FailureShutdown,
        Self::FailureRestart,
        Self::Preflight,
        Self::Down,
        Self::Preempted,
    ];

    /// Returns the words for a table.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Productive => "steps",
            Self::Redone => "steps done again",
            Self::StartProgram => "programs: start and end",
            Self::StartData => "start: images",
            Self::StartRestore => "start: checkpoint",
            Self::StartWarmUp => "start: first step",
            Self::DataWait => "waiting for images",
            Self::StragglerWait => "waiting for slower ranks",
            Self::Exchange => "exchange with other ranks",
            Self::Checkpoint => "saving",
            Self::Sampling => "sample grids",
            Self::Evaluation => "validation and evaluation",
            Self::FailureDetection => "failures: detection",
            Self::FailureShutdown => "failures: shutdown",
            Self::FailureRestart => "failures: restart",
            Self::Preflight => "preflight",
            Self::Down => "down",
            Self::Preempted => "preempted",
        }
    }

    /// Returns whether the time was lost to a failure.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::FailureDetection | Self::FailureShutdown | Self::FailureRestart)
    }

    /// Returns whether ranks hold their GPUs in this time.
    #[must_use]
    pub fn is_held(self) -> bool {
        !matches!(self, Self::Down | Self::Preempted)
    }
}

/// Seconds by account.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seconds([f64; Account::ALL.len()]);

impl Seconds {
    /// Returns the sum over all accounts.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Returns the accounts with their seconds.
    pub fn iter(&self) -> impl Iterator<Item = (Account, f64)> + '_ {
        Account::ALL.into_iter().zip(self.0)
    }
}

impl Index<Account> for Seconds {
    type Output = f64;
    fn index(&self, account: Account) -> &f64 {
        &self.0[account as usize]
    }
}

impl IndexMut<Account> for Seconds {
    fn index_mut(&mut self, account: Account) -> &mut f64 {
        &mut self.0[account as usize]
    }
}

impl AddAssign for Seconds {
    fn add_assign(&mut self, other: Self) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum += value;
        }
    }
}
