//! Tests with pickles written by hand: operations of old Python versions, and hostile pickles.
#![allow(clippy::unwrap_used)]

use super::machine::run;
use super::value::{Storage, Value};
use crate::dtype::Dtype;
use crate::error::Error;

fn top(pickle: &[u8]) -> Value {
    let pickled = run(pickle).unwrap();
    assert_eq!(pickled.length, pickle.len());
    pickled.get(pickled.top).clone()
}

fn error(pickle: &[u8]) -> Error {
    run(pickle).map(drop).unwrap_err()
}

const TENSOR: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n\
    X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x01(K\x02K\x01t(K\x01K\x01t\x89)tR";

#[test]
fn a_tensor_is_described_without_reading_it() {
    let Value::Tensor(view) = top(&[b"\x80\x02", TENSOR, b"."].concat()) else { panic!() };
    let storage = Storage { key: "0".into(), dtype: Some(Dtype::F32), length: 6, first: 0 };
    assert_eq!((view.storage, view.offset, view.shape, view.strides), (storage, 1, vec![2, 1], vec![1, 1]));
}

#[test]
fn a_parameter_with_attributes_is_its_tensor() {
    let start = b"ctorch._utils\n_rebuild_parameter_with_state\n(";
    let pickle = [b"\x80\x02", start.as_slice(), TENSOR, b"\x88)}U\x04noteU\x01xstR."].concat();
    let Value::Tensor(view) = top(&pickle) else { panic!() };
    assert_eq!((view.offset, view.shape), (1, vec![2, 1]));
}

#[test]
fn a_tensor_whose_values_are_to_be_negated_is_refused() {
    let with = |metadata: &[u8]| [b"\x80\x02", &TENSOR[..TENSOR.len() - 2], metadata, b"tR."].concat();
    assert!(matches!(top(&with(b"}")), Value::Tensor(_)));
    assert!(matches!(top(&with(b"N")), Value::Tensor(_)));
    // {"neg": True}
    assert!(matches!(error(&with(b"}U\x03neg\x88s")), Error::Refused { .. }));
}

#[test]
fn a_tensor_of_too_many_dimensions_is_refused() {
    let start = TENSOR.windows(2).position(|two| two == b"Q\x4b").unwrap() + 3;
    let tensor = |dimensions: usize| {
        let numbers = [b"(".as_slice(), &b"K\x01".repeat(dimensions), b"t"].concat();
        [b"\x80\x02", &TENSOR[..start], &numbers, &numbers, b"\x89)tR."].concat()
    };
    let Value::Tensor(view) = top(&tensor(64)) else { panic!() };
    assert_eq!(view.shape.len(), 64);
    error(&tensor(65));
}

#[test]
fn the_text_operations_of_protocol_0_are_supported() {
    // {'a': (1, 2L, 3.5, True, None), "b": [u'x']} as Python 2 writes it.
    let pickled = run(b"(dp0\nS'a'\np1\n(I1\nL2L\nF3.5\nI01\nNtp2\nsS\"b\"\n(lp3\nVx\nasg2\n0.").unwrap();
    let Value::Dict(entries) = pickled.get(pickled.top) else { panic!() };
    assert_eq!(entries.iter().filter_map(|(key, _)| pickled.text(*key)).collect::<Vec<_>>(), ["a", "b"]);
    let Value::Tuple(parts) = pickled.get(entries[0].1) else { panic!() };
    let kinds: Vec<&str> = parts.iter().map(|part| pickled.get(*part).kind()).collect();
    assert_eq!(kinds, ["a number", "a number", "a number", "a truth value", "nothing"]);
    let Value::List(list) = pickled.get(entries[1].1) else { panic!() };
    assert_eq!(pickled.text(list[0]), Some("x"));
}

#[test]
fn an_ordered_dict_of_python_2_has_its_entries_as_pairs() {
    let (start, second, end) = (b"\x80\x02ccollections\nOrderedDict\n](](U\x01a", b"e](U\x01b", b"ee\x85R.");
    let pickled = run(&[start, TENSOR, second, TENSOR, end].concat()).unwrap();
    let Value::Dict(entries) = pickled.get(pickled.top) else { panic!() };
    assert_eq!(entries.iter().filter_map(|(key, _)| pickled.text(*key)).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_storage_may_be_a_part_of_another_one() {
    let pickle = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06\
        (X\x01\x00\x00\x001K\x02K\x03ttQ.";
    let Value::Storage(storage) = top(pickle) else { panic!() };
    assert_eq!(storage, Storage { key: "0".into(), dtype: Some(Dtype::F16), length: 3, first: 2 });
}

#[test]
fn integers_are_read_with_their_sign() {
    for (pickle, expected) in [
        (&b"K\xff."[..], 255),
        (b"M\xff\xff.", 65535),
        (b"J\xff\xff\xff\xff.", -1),
        (b"\x8a\x00.", 0),
        (b"\x8a\x01\xff.", -1),
        (b"\x8a\x02\xff\x00.", 255),
        (b"\x8b\x01\x00\x00\x00\x80.", -128),
        (b"I-7\n.", -7),
    ] {
        assert!(matches!(top(pickle), Value::Int(number) if number == expected), "{pickle:?}");
    }
}

#[test]
fn operations_that_create_objects_are_refused_with_name_and_position() {
    for (pickle, name, expected) in [
        (&b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR."[..], "os.system", 2),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval", 18),
        (b"(S'id'\nios\nsystem\n.", "an object of os.system", 7),
        (b"(ccollections\nOrderedDict\no.", "an object of a class", 26),
        (b"ccollections\nOrderedDict\n)\x81.", "an object of a class", 26),
        (b"ccollections\nOrderedDict\n)}\x92.", "an object of a class", 27),
        (b"Pstorage\n.", "a persistent id as text", 0),
        (b"\x82\x01.", "an extension's code", 0),
        (b"ctorch\nFloatStorage\n(K\x02tR.", "a call of Storage(Some(F32))", 24),
        (b"ctorch\nload\n.", "torch.load", 0),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "torch._utils._rebuild_tensor_v2.__globals__", 0),
        (b"K\x01)R.", "a call of a number", 3),
        (b"]}b.", "the state of a list", 2),
        (b"}cos\nsystem\nb.", "os.system", 1),
    ] {
        let error = error(pickle);
        let Error::Refused { name: found, position } = &error else { panic!("{error}") };
        assert!(found.starts_with(name) && *position == expected, "{error} at {position}");
    }
}

#[test]
fn invalid_pickles_are_damaged() {
    for pickle in [
        &b""[..],
        b".",
        b"N",
        b"\x80",
        b"(.",
        b"N(.",
        b"a",
        b"Na.",
        b"]Na",
        b"}NNNu.",
        b"}(Nu.",
        b"(NN",
        b"\x85.",
        b"t.",
        b"h\x00.",
        b"X\xff\xff\xff\xffa.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x8b\xff\xff\xff\xff.",
        b"X\x01\x00\x00\x00\xff.",
        b"I1",
        b"Ix\n.",
        b"S'a\n.",
        b"S'\\x41'\n.",
        b"g-1\n.",
        b"NQ.",
        b"(X\x06\x00\x00\x00deviceQ.",
        b"\xfe.",
    ] {
        assert!(
            matches!(run(pickle), Err(Error::Damaged(_))),
            "{pickle:?}: {:?}",
            run(pickle).map(|pickled| pickled.top)
        );
    }
    assert!(matches!(error(b"\x80\x06N."), Error::Unsupported(_)));
}

#[test]
fn deep_nesting_and_cycles_are_harmless() {
    let depth = 500_000;
    let lists = [vec![b']'; depth], vec![b'a'; depth - 1], vec![b'.']].concat();
    assert!(matches!(top(&lists), Value::List(_)));
    let tuples = [b")".to_vec(), vec![0x85; depth], vec![b'.']].concat();
    assert!(matches!(top(&tuples), Value::Tuple(_)));
    assert!(matches!(top(b"]q\x00h\x00a."), Value::List(_)));
}

#[test]
fn operations_and_copies_are_limited() {
    let error_of_many = error(&vec![b'N'; 3 << 20]);
    assert!(matches!(error_of_many, Error::Unsupported(_)), "{error_of_many}");
    // Many tensors of sixty dimensions from the same arguments: 190 MB from 1 MB.
    let numbers = [&b"("[..], &b"K\x01".repeat(60), b"t"].concat();
    let mut pickle = Vec::new();
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x010((X\x07\x00\x00\x00storagectorch\nFloatStorage\n");
    pickle.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00");
    pickle.extend([numbers.as_slice(), &numbers].concat());
    pickle.extend(b"tq\x020");
    pickle.extend(b"h\x01h\x02R0".repeat(200_000));
    assert!(matches!(error(&pickle), Error::Unsupported(_)));
    // The key of a storage is copied with each tensor, so its length is limited.
    let key = vec![b'k'; 1 << 20];
    let mut pickle = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX".to_vec();
    pickle.extend((key.len() as u32).to_le_bytes());
    pickle.extend(key);
    pickle.extend(b"X\x03\x00\x00\x00cpuK\x06tQ.");
    assert!(matches!(error(&pickle), Error::Damaged(_)));
}
