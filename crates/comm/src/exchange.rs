//! Shows in the progress ledger that this rank is inside an exchange with other ranks.

use std::sync::Arc;

use admiral_contract::{Ledger, Phase};

/// Shows this rank inside an exchange with other ranks until it is dropped. Then the ledger returns to the earlier
/// phase.
#[derive(Debug)]
#[must_use = "the exchange ends when this is dropped"]
pub struct Exchange {
    ledger: Arc<Ledger>,
    /// The phase to return to. `None` if this exchange is part of another one.
    before: Option<(Phase, u64)>,
}

impl Exchange {
    /// Enters an exchange of any kind. Inside another exchange, such as the sum of a bucket, it changes nothing.
    pub fn enter(ledger: &Arc<Ledger>) -> Self {
        let (phase, pass) = ledger.phase();
        let before = (!phase.is_collective()).then(|| {
            ledger.enter(Phase::Exchange, pass);
            (phase, pass)
        });
        Self { ledger: Arc::clone(ledger), before }
    }

    /// An exchange that the ledger shows already and that ends by returning to the phase `before`.
    pub(crate) fn entered(ledger: &Arc<Ledger>, before: (Phase, u64)) -> Self {
        Self { ledger: Arc::clone(ledger), before: Some(before) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((phase, pass)) = self.before {
            self.ledger.enter(phase, pass);
        }
    }
}
