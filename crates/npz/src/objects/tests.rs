//! Damaged pickles, and short ones that would make large values.
#![allow(clippy::unwrap_used)]
use super::*;

/// `np.array([0.5, -2.0], dtype=object)` by protocol 4.
fn array() -> Vec<u8> {
    let mut pickle = b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93".to_vec();
    pickle.extend(b"\x8c\x05numpy\x8c\x07ndarray\x93K\0\x85C\x01b\x87R(K\x01K\x02\x85");
    pickle.extend(b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R");
    pickle.extend(b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89](");
    for number in [0.5_f64, -2.0] {
        pickle.push(b'G');
        pickle.extend(number.to_be_bytes());
    }
    pickle.extend(b"etb.");
    pickle
}

#[test]
fn damaged_pickles_are_errors_or_numbers() {
    let pickle = array();
    assert_eq!(numbers(&pickle, 100), Ok(Numbers { shape: vec![2], values: vec![0.5, -2.0] }));
    assert!(numbers(&pickle, 1).is_err_and(|reason| reason.contains("too many numbers")));
    let mut read = 0;
    for place in 0..pickle.len() {
        assert!(numbers(&pickle[..place], 100).is_err());
        for byte in 0..=255 {
            let mut other = pickle.clone();
            other[place] = byte;
            read += usize::from(numbers(&other, 100).is_ok());
        }
    }
    // Those of other numbers, and of parts that are not looked at.
    assert!((16 * 256..pickle.len() * 128).contains(&read), "{read}");
}

#[test]
fn a_short_pickle_makes_no_large_values() {
    let start = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\nq\0cnumpy\nndarray\nq\x01".to_vec();
    let dtype = b"cnumpy\ndtype\nX\x02\0\0\0f4\x85Rq\x02";
    // A shape of many dimensions.
    let mut dimensions = start.clone();
    dimensions.extend(dtype);
    dimensions.extend(b"h\0h\x01\x85R(K\x01(");
    dimensions.extend(b"K\x01".repeat(1000));
    dimensions.extend(b"th\x02\x89C\x04\0\0\0\0tb.");
    // A state that an array uses again.
    let mut state = start.clone();
    state.extend(dtype);
    state.extend(b"(K\x01K\x01\x85h\x02\x89C\x04\0\0\0\0tq\x03h\x03.");
    // The same bytes in many arrays.
    let mut bytes = start;
    bytes.extend(dtype);
    bytes.extend(b"B\0\x10\0\0");
    bytes.extend([0; 4096]);
    bytes.extend(b"q\x03](");
    for _ in 0..100 {
        bytes.extend(b"h\0h\x01\x85R(K\x01M\0\x04\x85h\x02\x89h\x03tb");
    }
    bytes.extend(b"e.");
    let many = [b"(".as_slice(), &b"N".repeat(60_000), b"t."].concat();
    let nested = [b"\x80\x04".as_slice(), &b")".repeat(10_000), b"."].concat();
    let memo = [b"N".as_slice(), &b"\x94".repeat(2 << 20), b"."].concat();
    for (pickle, reason) in [
        (dimensions, "larger tuples"),
        (state, "twice"),
        (bytes, "again and again"),
        (many, "more values"),
        (nested, "more values"),
        (memo, "more values"),
    ] {
        let error = numbers(&pickle, 1 << 26).unwrap_err();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}
