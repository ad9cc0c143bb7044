//! The deviation of measured step times from the plan.

/// The number of steps whose median time is compared with the plan.
pub const MEASURED_STEPS: usize = 100;

/// Returns a line that compares the median of `step_seconds` with the planned time. `None` if either is not a positive,
/// finite time.
#[must_use]
pub fn how_far_off(planned_seconds: f64, step_seconds: &[f64]) -> Option<String> {
    let mut sorted = step_seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let measured = *sorted.get(sorted.len() / 2)?;
    if !(planned_seconds > 0.0 && planned_seconds.is_finite() && measured > 0.0 && measured.is_finite()) {
        return None;
    }
    let percent = 100.0 * (measured / planned_seconds - 1.0);
    let verdict = if percent.abs() < 0.5 {
        "as planned".to_owned()
    } else {
        format!("{:.0} % {} than planned", percent.abs(), if percent > 0.0 { "slower" } else { "faster" })
    };
    Some(format!(
        "a step takes {measured:.3} s, the median of {}; `admiral plan` says {planned_seconds:.3} s: {verdict}",
        step_seconds.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_slower_faster_or_as_planned() {
        let expect = |planned, steps: &[f64], words: &str| {
            let text = how_far_off(planned, steps).unwrap_or_default();
            assert!(text.contains(words), "{text}");
        };
        expect(1.0, &[1.25, 9.0, 1.25], "25 % slower than planned");
        expect(1.0, &[0.5, 0.5, 0.5, 7.0], "50 % faster than planned");
        expect(1.0, &[1.0, 1.0, 1.0], "as planned");
        expect(1.0, &[2.0; 3], "the median of 3");
    }

    #[test]
    fn there_is_no_line_without_a_plan_or_steps() {
        assert_eq!(how_far_off(f64::NAN, &[1.0]), None);
        assert_eq!(how_far_off(0.0, &[1.0]), None);
        assert_eq!(how_far_off(1.0, &[]), None);
    }
}
