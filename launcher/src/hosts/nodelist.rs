//! Slurm's lists of host names: `gpu[01-03,7],login,rack[1-2]-node[0-1]`.

/// A list with more hosts is taken for a mistake.
const MAX_HOSTS: usize = 65_536;

/// Returns the names of a list, in order. Numbers are padded to the width of the first number of their range.
///
/// # Errors
/// If the list is malformed: what is wrong.
pub fn expand(list: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for element in split_outside_brackets(list)? {
        names.extend(expand_element(element)?);
        if names.len() > MAX_HOSTS {
            return Err(format!("it names more than {MAX_HOSTS} hosts"));
        }
    }
    Ok(names)
}

/// Parses Slurm's counts, one per host: `8(x2),4` is 8, 8, 4.
///
/// # Errors
/// If the list is malformed: what is wrong.
pub fn expand_counts(list: &str) -> Result<Vec<usize>, String> {
    let mut counts = Vec::new();
    for element in list.split(',') {
        let wrong = || format!("{element:?} is no count such as \"8\" or \"8(x2)\"");
        let (count, times) = match element.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')').ok_or_else(wrong)?),
            None => (element, "1"),
        };
        let times = times.parse().map_err(|_| wrong())?;
        if times > MAX_HOSTS - counts.len() {
            return Err(format!("it counts more than {MAX_HOSTS} hosts"));
        }
        counts.extend(std::iter::repeat_n(count.parse::<usize>().map_err(|_| wrong())?, times));
    }
    Ok(counts)
}

fn split_outside_brackets(list: &str) -> Result<Vec<&str>, String> {
    let mut elements = Vec::new();
    let (mut start, mut is_inside) = (0, false);
    for (place, letter) in list.char_indices() {
        match letter {
            '[' if is_inside => return Err("a bracket opens within another".to_owned()),
            ']' if !is_inside => return Err("a bracket closes that was not opened".to_owned()),
            '[' => is_inside = true,
            ']' => is_inside = false,
            ',' if !is_inside => {
                elements.push(&list[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    if is_inside {
        return Err("a bracket is not closed".to_owned());
    }
    elements.push(&list[start..]);
    if elements.contains(&"") { Err("a name is missing".to_owned()) } else { Ok(elements) }
}

/// Returns the names of one element. The numbers of the last bracket change fastest.
fn expand_element(element: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = element;
    while let Some((text, opened)) = rest.split_once('[') {
        let (ranges, after) = opened.split_once(']').ok_or("a bracket is not closed")?;
        let numbers = ranges.split(',').map(expand_range).collect::<Result<Vec<_>, _>>()?.concat();
        if names.len() * numbers.len() > MAX_HOSTS {
            return Err(format!("it names more than {MAX_HOSTS} hosts"));
        }
        names =
            names.iter().flat_map(|name| numbers.iter().map(move |number| format!("{name}{text}{number}"))).collect();
        rest = after;
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

fn expand_range(range: &str) -> Result<Vec<String>, String> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .parse::<usize>()
            .ok()
            .filter(|_| is_number)
            .ok_or_else(|| format!("{range:?} is no number and no range such as \"01-16\""))
    };
    let (low, high, width) = (number(first)?, number(last)?, first.len());
    if low > high {
        return Err(format!("the range {range:?} runs backwards"));
    }
    if high - low >= MAX_HOSTS {
        return Err(format!("it names more than {MAX_HOSTS} hosts"));
    }
    Ok((low..=high).map(|number| format!("{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slurms_lists_are_expanded() {
        for (list, names) in [
            ("n0", "n0"),
            ("n0,n1", "n0 n1"),
            ("node[01-03,7]", "node01 node02 node03 node7"),
            ("node[8-11]", "node8 node9 node10 node11"),
            ("node[098-101]", "node098 node099 node100 node101"),
            ("node[01-03,7],gpu-a[1-2]-ib", "node01 node02 node03 node7 gpu-a1-ib gpu-a2-ib"),
            ("r[1-2]n[0-1]", "r1n0 r1n1 r2n0 r2n1"),
            ("a[3],b", "a3 b"),
        ] {
            assert_eq!(expand(list).unwrap().join(" "), names, "{list}");
        }
        assert_eq!(expand_counts("8(x2),4").unwrap(), [8, 8, 4]);
        assert_eq!(expand_counts("1").unwrap(), [1]);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for (list, part) in [
            ("", "a name is missing"),
            ("a,,b", "a name is missing"),
            ("a[1-2", "not closed"),
            ("a]1[", "not opened"),
            ("a[1[2]]", "within another"),
            ("a[]", "no number"),
            ("a[x]", "no number"),
            ("a[+1]", "no number"),
            ("a[1-2-3]", "no number"),
            ("a[3-1]", "backwards"),
            ("a[0-99999999]", "more than 65536"),
            ("a[0-999][0-999]", "more than 65536"),
            ("a[0-60000],b[0-60000]", "more than 65536"),
            ("a[0-99999999999999999999999]", "no number"),
        ] {
            assert!(expand(list).unwrap_err().contains(part), "{list:?}: {:?}", expand(list));
        }
        for list in ["", "x", "8(x", "8(x)", "8(xa)", "8,,4", "8(x99999999)"] {
            expand_counts(list).unwrap_err();
        }
    }

    #[derive(Debug, Clone)]
    struct Range {
        first: usize,
        length: usize,
        width: usize,
    }

    fn range() -> impl Strategy<Value = Range> {
        (0_usize..200, 1_usize..6, 0_usize..5).prop_map(|(first, length, width)| Range { first, length, width })
    }

    /// The parts of a name: text, and the bracket after it.
    fn element() -> impl Strategy<Value = (Vec<(String, Vec<Range>)>, String)> {
        let part = ("[a-z][a-z0-9-]{0,4}", prop::collection::vec(range(), 1..4));
        (prop::collection::vec(part, 0..3), "[a-z]{1,3}")
    }

    proptest! {
        /// A list that is written from names expands to the same names.
        #[test]
        fn expansion_inverts_compression(elements in prop::collection::vec(element(), 1..4)) {
            let mut written = Vec::new();
            let mut names = Vec::new();
            for (parts, suffix) in elements {
                let mut text = String::new();
                let mut expected = vec![String::new()];
                for (prefix, ranges) in parts {
                    let mut numbers = Vec::new();
                    let mut brackets = Vec::new();
                    for Range { first, length, width } in ranges {
                        let shown = format!("{first:0width$}");
                        let last = first + length - 1;
                        brackets.push(if length == 1 { shown.clone() } else { format!("{shown}-{last}") });
                        numbers.extend((first..=last).map(|number| format!("{number:0width$}", width = shown.len())));
                    }
                    text += &format!("{prefix}[{}]", brackets.join(","));
                    let each = |name: &String| -> Vec<String> {
                        numbers.iter().map(|number| format!("{name}{prefix}{number}")).collect()
                    };
                    expected = expected.iter().flat_map(each).collect();
                }
                written.push(text + &suffix);
                names.extend(expected.into_iter().map(|name| name + &suffix));
            }
            prop_assert_eq!(expand(&written.join(",")).unwrap(), names);
        }

        #[test]
        fn arbitrary_text_does_not_panic(list in "[a-c0-9,\\[\\]()x-]{0,40}") {
            let _ = expand(&list);
            let _ = expand_counts(&list);
        }
    }
}
