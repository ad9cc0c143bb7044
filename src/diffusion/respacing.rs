//! Respacing: the selection of timesteps that a shorter process keeps of the full one.

use std::collections::BTreeSet;

/// An invalid respacing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RespacingError {
    /// The text is neither a list of numbers nor `ddim` and a number.
    #[error(
        "{0:?} is no respacing: use an empty text for every timestep, a number (250), one number for each section \
         (90,60,60,20,20), or ddim and a number (ddim25)"
    )]
    Syntax(String),
    /// The respacing keeps no timestep.
    #[error("{0:?} keeps no timestep: ask for at least one")]
    Empty(String),
    /// A section has fewer timesteps than the respacing keeps of it.
    #[error(
        "section {} of {num_sections} has {size} of the {num_timesteps} timesteps, so {count} cannot be kept: \
         use at most {size} there", .section + 1
    )]
    Section {
        /// The index of the section, from 0.
        section: usize,
        /// The number of sections.
        num_sections: usize,
        /// The number of timesteps of the full process.
        num_timesteps: usize,
        /// The number of timesteps in the section.
        size: usize,
        /// The requested number of timesteps.
        count: usize,
    },
    /// No integer stride keeps this number of timesteps.
    #[error("no stride over {num_timesteps} timesteps keeps exactly {count}; {}", nearest(.below, .above))]
    Stride {
        /// The number of timesteps of the full process.
        num_timesteps: usize,
        /// The requested number of timesteps.
        count: usize,
        /// The next smaller possible number.
        below: Option<usize>,
        /// The next larger possible number.
        above: Option<usize>,
    },
}

fn nearest(below: &Option<usize>, above: &Option<usize>) -> String {
    let numbers: Vec<String> = [below, above].into_iter().flatten().map(|n| format!("ddim{n}")).collect();
    format!("the nearest that work: {}", numbers.join(", "))
}

/// Returns the timesteps that `respacing` keeps of a process of `num_timesteps`, ascending.
///
/// An empty text keeps all. `a,b,c` divides the process into three sections of almost equal size and keeps a, b and c
/// timesteps of them, evenly spaced from the first to the last of the section, with halves rounded to even. `ddimN`
/// keeps every k-th timestep from 0, with the smallest k that keeps N.
///
/// # Errors
/// If the text is not a respacing, or the process has too few timesteps for it.
pub fn retained_timesteps(num_timesteps: usize, respacing: &str) -> Result<Vec<usize>, RespacingError> {
    let respacing = respacing.trim();
    if respacing.is_empty() {
        return Ok((0..num_timesteps).collect());
    }
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| RespacingError::Syntax(respacing.to_owned()));
    if let Some(count) = respacing.strip_prefix("ddim") {
        return strided(num_timesteps, number(count)?);
    }
    let counts = respacing.split(',').map(number).collect::<Result<Vec<usize>, _>>()?;
    if counts.iter().all(|&count| count == 0) {
        return Err(RespacingError::Empty(respacing.to_owned()));
    }
    sections(num_timesteps, &counts)
}

fn strided(num_timesteps: usize, count: usize) -> Result<Vec<usize>, RespacingError> {
    if count == 0 {
        return Err(RespacingError::Empty("ddim0".to_owned()));
    }
    // Larger strides keep fewer timesteps, so only the first stride that keeps at most `count` can keep exactly
    // `count`.
    let kept = |stride: usize| num_timesteps.div_ceil(stride);
    match (1..=num_timesteps).find(|&stride| kept(stride) <= count) {
        Some(stride) if kept(stride) == count => Ok((0..num_timesteps).step_by(stride).collect()),
        found => Err(RespacingError::Stride {
            num_timesteps,
            count,
            below: found.map(kept),
            above: found.filter(|&stride| stride > 1).map(|stride| kept(stride - 1)),
        }),
    }
}

fn sections(num_timesteps: usize, counts: &[usize]) -> Result<Vec<usize>, RespacingError> {
    let num_sections = counts.len();
    let mut kept = BTreeSet::new();
    let mut start = 0;
    for (section, &count) in counts.iter().enumerate() {
        let size = num_timesteps / num_sections + usize::from(section < num_timesteps % num_sections);
        if count > size {
            return Err(RespacingError::Section { section, num_sections, num_timesteps, size, count });
        }
        let stride = if count <= 1 { 1.0 } else { (size - 1) as f64 / (count - 1) as f64 };
        // The stride is accumulated, not multiplied: the rounding of the sums decides the timestep at a half.
        let mut position = 0.0f64;
        for _ in 0..count {
            kept.insert(start + position.round_ties_even() as usize);
            position += stride;
        }
        start += size;
    }
    Ok(kept.into_iter().collect())
}

/// Returns the betas of the process that visits only `timesteps` (ascending). They leave alpha_bar at these timesteps
/// as it is in `alphas_cumprod` of the full process.
#[must_use]
pub fn respaced_betas(alphas_cumprod: &[f64], timesteps: &[usize]) -> Vec<f64> {
    let mut last = 1.0;
    timesteps
        .iter()
        .map(|&t| {
            let beta = 1.0 - alphas_cumprod[t] / last;
            last = alphas_cumprod[t];
            beta
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sections_keep_first_and_last_and_round_half_to_even() {
        assert_eq!(retained_timesteps(4, "").unwrap(), [0, 1, 2, 3]);
        assert_eq!(retained_timesteps(10, "3").unwrap(), [0, 4, 9]);
        assert_eq!(retained_timesteps(12, "3").unwrap(), [0, 6, 11]);
        assert_eq!(retained_timesteps(11, "2,1,0").unwrap(), [0, 3, 4]);
    }

    #[test]
    fn ddim_uses_the_smallest_stride() {
        assert_eq!(retained_timesteps(10, "ddim5").unwrap(), [0, 2, 4, 6, 8]);
        assert_eq!(retained_timesteps(10, "ddim1").unwrap(), [0]);
        assert_eq!(retained_timesteps(10, "ddim10").unwrap().len(), 10);
    }

    #[test]
    fn errors_name_the_nearest_valid_numbers() {
        let stride = retained_timesteps(1000, "ddim300").unwrap_err();
        assert_eq!(
            stride,
            RespacingError::Stride { num_timesteps: 1000, count: 300, below: Some(250), above: Some(334) }
        );
        assert!(stride.to_string().ends_with("the nearest that work: ddim250, ddim334"), "{stride}");
        let beyond = retained_timesteps(10, "ddim11").unwrap_err();
        assert_eq!(beyond, RespacingError::Stride { num_timesteps: 10, count: 11, below: Some(10), above: None });

        let section = retained_timesteps(10, "1,6").unwrap_err();
        assert!(section.to_string().starts_with("section 2 of 2 has 5 of the 10"), "{section}");
        assert!(matches!(retained_timesteps(10, "0,0"), Err(RespacingError::Empty(_))));
        assert!(matches!(retained_timesteps(10, "ddim0"), Err(RespacingError::Empty(_))));
        for nonsense in ["ddim", "a", "3,", "-1", "2.5"] {
            assert!(matches!(retained_timesteps(10, nonsense), Err(RespacingError::Syntax(_))), "{nonsense}");
        }
    }

    #[test]
    fn respaced_betas_preserve_alpha_bar() {
        let alphas_cumprod = [0.9, 0.72, 0.36, 0.09];
        let betas = respaced_betas(&alphas_cumprod, &[1, 3]);
        assert!((betas[0] - 0.28).abs() < 1e-15);
        assert!((betas[1] - (1.0 - 0.09 / 0.72)).abs() < 1e-15);
    }
}
