//! Damages the memory of a rank, as the configuration of faults asks.

use admiral_comm::faults::Damage;
use tch::Tensor;

use super::flat::FlatMemory;

/// The damaged tensors.
#[derive(Debug)]
pub(super) struct Damaged {
    value: f64,
    tensors: Vec<Tensor>,
}

impl Damaged {
    /// Finds the tensors. `None` if the network has no parameter of that name, which is logged.
    pub(super) fn find(memory: &FlatMemory, damage: Damage<'_>) -> Option<Self> {
        let find = |name: &str| {
            let found = memory.specs().iter().position(|spec| spec.name == name);
            if found.is_none() {
                tracing::error!("faults: the network has no parameter {name}");
            }
            found
        };
        let mut tensors = Vec::new();
        if let Some(name) = damage.parameter {
            let param = find(name)?;
            // The network's copy too, which is the same memory in float32.
            tensors.push(memory.master_params().tensors()[param].shallow_clone());
            tensors.push(memory.params().tensors()[param].detach());
        }
        if let Some(name) = damage.gradient {
            tensors.push(memory.gradients().tensors()[find(name)?].shallow_clone());
        }
        Some(Self { value: damage.value.value(), tensors })
    }

    /// Puts the value into the first element of each tensor. Backward adds to gradients, so that a gradient stays damaged if
    /// this comes after it was set to zero.
    pub(super) fn strike(&self) {
        let _no_grad = tch::no_grad_guard();
        for tensor in &self.tensors {
            let _ = tensor.flatten(0, -1).narrow(0, 0, 1).fill_(self.value);
        }
    }
}
