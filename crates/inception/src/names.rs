//! The names of state dicts: prefixes, and the numbered blocks of pytorch-fid's module.

use std::collections::BTreeSet;

/// The first tensor of the network in the two forms of names.
const FIRST: &str = "Conv2d_1a_3x3.conv.weight";
const FIRST_NUMBERED: &str = "blocks.0.0.conv.weight";

/// The layers of pytorch-fid's module, which numbers them by block.
const BLOCKS: [&[&str]; 4] = [
    &["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"],
    &["Conv2d_3b_1x1", "Conv2d_4a_3x3"],
    &["Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"],
    &["Mixed_7a", "Mixed_7b", "Mixed_7c"],
];

/// How a file names tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Naming {
    /// What comes before each name: `module.`, or nothing.
    prefix: String,
    /// Whether layers are numbered: `blocks.2.0` is `Mixed_5b`.
    is_numbered: bool,
}

impl Naming {
    /// Finds out how a file names its tensors.
    ///
    /// # Errors
    /// If no name is that of the first layer, or several are. The text says which.
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut found = BTreeSet::new();
        for name in names {
            for (first, is_numbered) in [(FIRST, false), (FIRST_NUMBERED, true)] {
                if let Some(prefix) = name.strip_suffix(first)
                    && (prefix.is_empty() || prefix.ends_with('.'))
                {
                    found.insert((prefix.to_owned(), is_numbered));
                }
            }
        }
        match found.len() {
            0 => Err(format!("it has no tensor {FIRST}")),
            1 => Ok(found.pop_first().map(|(prefix, is_numbered)| Self { prefix, is_numbered }).unwrap_or_default()),
            _ => {
                let all: Vec<String> = found.into_iter().map(|(prefix, _)| format!("`{prefix}`")).take(4).collect();
                Err(format!("it has several networks, under {}", all.join(", ")))
            }
        }
    }

    /// Returns the canonical name of a tensor. `None` if the tensor belongs to something else than the network.
    pub(crate) fn canonical(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix(&self.prefix)?;
        if !self.is_numbered {
            return Some(name.to_owned());
        }
        let mut parts = name.strip_prefix("blocks.")?.splitn(3, '.');
        let mut number = || parts.next()?.parse::<usize>().ok();
        let layer = BLOCKS.get(number()?)?.get(number()?)?;
        Some(format!("{layer}.{}", parts.next()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prefixes_are_found() {
        for prefix in ["", "module.", "base.", "a.b."] {
            let first = format!("{prefix}{FIRST}");
            let naming = Naming::of([first.as_str(), "other"].into_iter()).unwrap();
            assert_eq!(naming.canonical(&first).unwrap(), FIRST);
            assert_eq!(naming.canonical("other").is_none(), !prefix.is_empty());
        }
    }

    #[test]
    fn numbered_blocks_are_renamed() {
        let naming = Naming::of(["inception.blocks.0.0.conv.weight"].into_iter()).unwrap();
        let name = |text: &str| naming.canonical(text);
        assert_eq!(name("inception.blocks.0.0.conv.weight").unwrap(), FIRST);
        assert_eq!(name("inception.blocks.2.7.branch1x1.bn.bias").unwrap(), "Mixed_6e.branch1x1.bn.bias");
        assert_eq!(name("inception.blocks.3.9.branch1x1.bn.bias"), None);
        assert_eq!(name("inception.blocks.x"), None);
    }

    #[test]
    fn none_and_two_are_refused() {
        assert!(Naming::of(["XConv2d_1a_3x3.conv.weight"].into_iter()).unwrap_err().contains("no tensor"));
        let two = ["a.Conv2d_1a_3x3.conv.weight", "b.Conv2d_1a_3x3.conv.weight"];
        assert!(Naming::of(two.into_iter()).unwrap_err().contains("`a.`, `b.`"));
    }
}
