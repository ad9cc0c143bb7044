//! Huge pages for large buffers.

/// Asks the system to back `values` with huge pages. The buffer must not have been written yet. Copying gigabytes into
/// pages of 4 KiB would spend much of the time on page faults. Has no effect on a system without huge pages.
pub(crate) fn prefer_huge_pages(values: &mut [f32]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let start = values.as_mut_ptr().cast::<u8>();
        let skipped = start.align_offset(HUGE_PAGE);
        let Some(length) = size_of_val(values).checked_sub(skipped).filter(|&length| length >= HUGE_PAGE) else {
            return;
        };
        // SAFETY: the range is within `values`, and the advice changes no value. If it is refused, nothing changes.
        unsafe {
            libc::madvise(start.add(skipped).cast(), length / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_do_not_change_the_values() {
        for length in [0, 1, 3 << 20] {
            let mut values: Vec<f32> = (0..length).map(|i| i as f32).collect();
            prefer_huge_pages(&mut values);
            assert!(values.iter().enumerate().all(|(i, &value)| value == i as f32), "{length}");
        }
    }
}
