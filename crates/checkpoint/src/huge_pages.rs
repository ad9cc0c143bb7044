//! Huge pages for large buffers.

/// Asks the system for huge pages under `values`, which must not have been written yet. A copy of gigabytes into pages of
/// 4 KiB spends much of its time on page faults. A system without huge pages uses its usual ones.
pub(crate) fn prefer_huge_pages(values: &mut [f32]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let start = values.as_mut_ptr().cast::<u8>();
        let skipped = start.align_offset(HUGE_PAGE);
        let Some(length) = size_of_val(values).checked_sub(skipped).filter(|&length| length >= HUGE_PAGE) else {
            return;
        };
        // SAFETY: the range lies within `values`, and the advice changes no value. Where it is refused nothing changes.
        unsafe {
            libc::madvise(start.add(skipped).cast(), length / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_change_no_value() {
        for length in [0, 1, 3 << 20] {
            let mut values: Vec<f32> = (0..length).map(|i| i as f32).collect();
            prefer_huge_pages(&mut values);
            assert!(values.iter().enumerate().all(|(i, &value)| value == i as f32), "{length}");
        }
    }
}
