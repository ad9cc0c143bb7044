//! A difference between the states of ranks, and its message.

use std::fmt;

/// The ranks whose state differs, and where it differs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The step after which the states were compared.
    pub step: u64,
    /// The ranks that differ from the majority, with their hosts; all ranks, if there is no majority.
    pub ranks: Vec<(usize, String)>,
    /// Whether a majority of the ranks agrees, so that the others are at fault.
    pub has_majority: bool,
    /// Whether this rank is known to be at fault.
    pub is_at_fault: bool,
    /// The number of ranks.
    pub world_size: usize,
    /// The first buffer that differs.
    pub buffer: String,
    /// The first parameter that differs in that buffer; `None` if only the padding between parameters differs.
    pub parameter: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            self.ranks.iter().take(4).map(|(rank, host)| format!("rank {rank} ({host})")).collect();
        let more = self.ranks.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let (names, of) = (names.join(", "), self.parameter.as_deref().unwrap_or("the padding"));
        write!(f, "after step {}: ", self.step)?;
        if self.has_majority {
            let others = self.world_size - self.ranks.len();
            write!(f, "{names}{more} and the other {others} ranks have different states")?;
        } else {
            write!(f, "{names}{more} have different states, and no majority shows which is right")?;
        }
        write!(
            f,
            "; the first difference is in {} of {of}. Memory was corrupted, or a processor computed wrongly; test the \
             machine. The checkpoints are from before: resume from the newest one",
            self.buffer
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_ranks_hosts_and_the_parameter() {
        let difference = Difference {
            step: 40,
            ranks: vec![(2, "n1".into())],
            has_majority: true,
            is_at_fault: false,
            world_size: 4,
            buffer: "the mean of gradients".into(),
            parameter: Some("out.2.weight".into()),
        };
        let text = difference.to_string();
        for part in ["after step 40: rank 2 (n1) and the other 3 ranks", "the mean of gradients of out.2.weight"] {
            assert!(text.contains(part), "{text}");
        }
        let tie = Difference {
            ranks: vec![(0, "n0".into()), (1, "n1".into())],
            has_majority: false,
            world_size: 2,
            ..difference
        };
        assert!(tie.to_string().contains("rank 0 (n0), rank 1 (n1) have different states, and no majority"), "{tie}");
    }
}
