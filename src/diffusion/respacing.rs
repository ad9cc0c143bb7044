//! Which timesteps of the full process a shorter one keeps.

use std::collections::BTreeSet;

/// Why a respacing does not fit a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RespacingError {
    /// Not a list of numbers, nor `ddim` and a number.
    #[error(
        "{0:?} is no respacing: use an empty text for every timestep, a number (250), one number for each section \
         (90,60,60,20,20), or ddim and a number (ddim25)"
    )]
    Syntax(String),
    /// No timestep would be kept.
    #[error("{0:?} keeps no timestep: ask for at least one")]
    Empty(String),
    /// A section has fewer timesteps than are to be kept of it.
    #[error(
        "section {} of {num_sections} has {size} of the {num_timesteps} timesteps, so {count} cannot be kept: \
         use at most {size} there", .section + 1
    )]
    Section {
        /// Which section, from 0.
        section: usize,
        /// How many there are.
        num_sections: usize,
        /// The timesteps of the full process.
        num_timesteps: usize,
        /// The timesteps in the section.
        size: usize,
        /// What was asked for.
        count: usize,
    },
    /// No integer stride gives this number of timesteps.
    #[error("no stride over {num_timesteps} timesteps keeps exactly {count}; {}", nearest(.below, .above))]
    Stride {
        /// The timesteps of the full process.
        num_timesteps: usize,
        /// What was asked for.
        count: usize,
        /// The next smaller number that a stride gives.
        below: Option<usize>,
        /// The next larger number that a stride gives.
        above: Option<usize>,
    },
}

fn nearest(below: &Option<usize>, above: &Option<usize>) -> String {
    let numbers: Vec<String> = [below, above].into_iter().flatten().map(|n| format!("ddim{n}")).collect();
    format!("the nearest that work: {}", numbers.join(", "))
}

/// The timesteps that `respacing` keeps of a process of `num_timesteps`, ascending.
///
/// An empty text keeps all. `a,b,c` cuts the process into as many sections of (nearly) equal size and keeps that
/// many timesteps of each, evenly from its first to its last, rounding halves to even. `ddimN` keeps every k-th
/// timestep from 0 with the least k that keeps N.
///
/// # Errors
/// Where the text is no respacing, or asks for what the process does not have.
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
    // Larger strides keep fewer timesteps, so the first that does not keep too many decides.
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
        // The stride is added up, not multiplied: the sums' rounding is part of which timestep a half falls to.
        let mut place = 0.0f64;
        for _ in 0..count {
            kept.insert(start + place.round_ties_even() as usize);
            place += stride;
        }
        start += size;
    }
    Ok(kept.into_iter().collect())
}

/// The betas of the process that visits only `timesteps` (ascending), such that alpha_bar at each of them stays what
/// `alphas_cumprod` says of the full process.
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
    fn sections_keep_first_and_last_and_round_halves_to_even() {
        assert_eq!(retained_timesteps(4, "").unwrap(), [0, 1, 2, 3]);
        assert_eq!(retained_timesteps(10, "3").unwrap(), [0, 4, 9]);
        assert_eq!(retained_timesteps(12, "3").unwrap(), [0, 6, 11]);
        assert_eq!(retained_timesteps(11, "2,1,0").unwrap(), [0, 3, 4]);
    }

    #[test]
    fn ddim_takes_the_least_stride() {
        assert_eq!(retained_timesteps(10, "ddim5").unwrap(), [0, 2, 4, 6, 8]);
        assert_eq!(retained_timesteps(10, "ddim1").unwrap(), [0]);
        assert_eq!(retained_timesteps(10, "ddim10").unwrap().len(), 10);
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
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
    fn respaced_betas_keep_alpha_bar() {
        let alphas_cumprod = [0.9, 0.72, 0.36, 0.09];
        let betas = respaced_betas(&alphas_cumprod, &[1, 3]);
        assert!((betas[0] - 0.28).abs() < 1e-15);
        assert!((betas[1] - (1.0 - 0.09 / 0.72)).abs() < 1e-15);
    }
}
