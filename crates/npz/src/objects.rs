//! Numbers in arrays of Python objects. NumPy pickles such arrays, by protocols 2 to 4. A machine that knows only the
//! operations and names of arrays of numbers interprets the pickle, so that no file can execute code.

mod allowed;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::rc::Rc;

use self::allowed::{Dtype, Name};
use self::refusal::{damaged, refuse, refuse_form};

/// The longest pickle that is read, in bytes. A covariance of 2048 features takes 38 MB, 9 bytes for each number.
pub(crate) const MAX_BYTES: u64 = 1 << 26;

/// The largest number of values on the stack. NumPy's pickles put 1,000 elements of an array there at a time.
const MAX_STACK: usize = 1 << 12;

/// The largest number of values that a pickle may remember. An array of Python's numbers needs about 10, and one of NumPy's
/// numbers two for each.
const MAX_MEMO: usize = 1 << 20;

/// The largest number of parts of a tuple: the dimensions that NumPy allows.
const MAX_PARTS: usize = 64;

/// The largest number of parts of all tuples. An array of NumPy's numbers needs two for each.
const MAX_ALL_PARTS: usize = 1 << 22;

/// The most numbers for each byte of the pickle. A row of bytes in an array of rows counts twice.
const MAX_NUMBERS_OF_BYTE: usize = 4;

/// Numbers with dimensions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Numbers {
    /// The dimensions.
    pub(crate) shape: Vec<usize>,
    /// The values in C order.
    pub(crate) values: Vec<f64>,
}

/// Reads the pickle of an array whose elements are numbers, or arrays of numbers of one shape. At most `most` numbers are
/// read.
///
/// # Errors
/// What else it holds.
pub(crate) fn numbers(pickle: &[u8], most: usize) -> Result<Numbers, String> {
    let machine = Machine {
        rest: pickle,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        memoized: 0,
        parts: 0,
        length: pickle.len(),
        used: 0,
        counted: 0,
        most: most.min(pickle.len().saturating_mul(MAX_NUMBERS_OF_BYTE)),
    };
    match machine.run()? {
        Value::Array(array) => Ok(array),
        other => refuse(other.kind()),
    }
}

/// Returns the number of elements of an array with a shape, if it fits.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |all: usize, &side| all.checked_mul(side))
}

/// A value that a pickle creates. Tuples and lists are in one another only as far as arrays of numbers need it, so a
/// hostile pickle cannot nest values deeply.
#[derive(Debug, Clone)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Bytes(Rc<[u8]>),
    Tuple(Rc<[Value]>),
    List(List),
    Name(Name),
    Dtype(Dtype),
    /// An array whose state has not been set.
    EmptyArray,
    Array(Numbers),
}

/// The elements of an array of objects.
#[derive(Debug, Clone, Default)]
struct List {
    numbers: Vec<f64>,
    arrays: Vec<Numbers>,
}

impl Value {
    /// Returns the kind of the value, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number without an array",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Name(_) => "a name",
            Self::Dtype(_) => "a type",
            Self::EmptyArray | Self::Array(_) => "an array",
        }
    }

    fn is_plain(&self) -> bool {
        !matches!(self, Self::Tuple(_) | Self::List(_))
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// The positions of the marks in the stack.
    marks: Vec<usize>,
    /// The values that the pickle may ask for again: those without parts, by their keys.
    memo: HashMap<u64, Value>,
    /// The number of values that were to be remembered by protocol 4, which counts them.
    memoized: u64,
    /// The parts of all tuples.
    parts: usize,
    /// The length of the pickle.
    length: usize,
    /// The bytes that were decoded. Protocol 2 writes the bytes of numbers as text, so each may count twice.
    used: usize,
    /// The numbers that were put into arrays, again for each array in another one.
    counted: usize,
    most: usize,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Value, String> {
        loop {
            let [operation] = self.array()?;
            if operation == b'.' {
                return self.pop();
            }
            self.operation(operation)?;
            if self.stack.len().max(self.marks.len()) > MAX_STACK || self.memo.len() > MAX_MEMO {
                return refuse("more values than an array of numbers needs");
            }
        }
    }

    fn operation(&mut self, operation: u8) -> Result<(), String> {
        match operation {
            0x80 => self.take(1).map(drop)?, // PROTO
            0x95 => self.take(8).map(drop)?, // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(number.into()));
            }
            0x8a => {
                let [length] = self.array()?;
                let bytes = self.take(length.into())?;
                if bytes.len() > 8 {
                    return refuse_form("an integer of more than 64 bits");
                }
                let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
                let mut eight = [fill; 8];
                eight[..bytes.len()].copy_from_slice(bytes);
                self.stack.push(Value::Int(i64::from_le_bytes(eight)));
            }
            b'G' => {
                let number = f64::from_be_bytes(self.array()?);
                self.stack.push(Value::Float(number));
            }
            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            b'C' => self.bytes(1)?,
            b'B' => self.bytes(4)?,
            0x8e => self.bytes(8)?,

            b')' => self.tuple(Vec::new())?,
            0x85..=0x87 => {
                let parts = self.pop_many(usize::from(operation - 0x84))?;
                self.tuple(parts)?;
            }
            b't' => {
                let parts = self.above_mark()?;
                self.tuple(parts)?;
            }
            b']' => self.stack.push(Value::List(List::default())),
            b'a' => {
                let element = self.pop()?;
                self.append(vec![element])?;
            }
            b'e' => {
                let elements = self.above_mark()?;
                self.append(elements)?;
            }

            b'q' => {
                let key = self.length(1)?;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.length(4)?;
                self.remember(key)?;
            }
            0x94 => {
                let key = self.memoized;
                self.memoized += 1;
                self.remember(key)?;
            }
            b'h' => {
                let key = self.length(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.length(4)?;
                self.recall(key)?;
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Name(Name::find(module, name)?));
            }
            0x93 => {
                let parts = self.pop_many(2)?;
                let [Value::Text(module), Value::Text(name)] = &parts[..] else { return Err(damaged()) };
                self.stack.push(Value::Name(Name::find(module, name)?));
            }
            b'R' => self.call()?,
            b'b' => self.build()?,
            b'}' => return refuse("a dictionary"),
            b'i' | b'o' | 0x81 | 0x92 => return refuse("an object of a class"),
            other => return refuse(format_args!("operation {other:#04x}")),
        }
        Ok(())
    }

    // The input.

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or_else(damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N as u64)?.try_into().map_err(|_| damaged())
    }

    /// Reads a little-endian number of `bytes` bytes, at most eight.
    fn length(&mut self, bytes: u64) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let line = self.take(end as u64 + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| damaged())
    }

    fn integer(&mut self, bytes: u64) -> Result<(), String> {
        let number = self.length(bytes)?;
        self.stack.push(Value::Int(number as i64));
        Ok(())
    }

    fn text(&mut self, bytes: u64) -> Result<(), String> {
        let length = self.length(bytes)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| damaged())?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn bytes(&mut self, bytes: u64) -> Result<(), String> {
        let length = self.length(bytes)?;
        let bytes = self.take(length)?;
        self.stack.push(Value::Bytes(bytes.into()));
        Ok(())
    }

    // The stack and the memo.

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value, String> {
        if self.stack.len() > self.floor() { self.stack.pop().ok_or_else(damaged) } else { Err(damaged()) }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, String> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => Err(damaged()),
        }
    }

    fn above_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or_else(damaged)?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Value, String> {
        self.stack.last_mut().ok_or_else(damaged)
    }

    /// Remembers the top of the stack if it has no parts. NumPy asks for others again only if an array is in another one
    /// twice, and a short pickle could make them large.
    fn remember(&mut self, key: u64) -> Result<(), String> {
        let value = match self.top()? {
            Value::Tuple(_) | Value::List(_) | Value::EmptyArray | Value::Array(_) => return Ok(()),
            other => other.clone(),
        };
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        match self.memo.get(&key) {
            Some(value) => {
                self.stack.push(value.clone());
                Ok(())
            }
            None => refuse_form("an array that is in it twice"),
        }
    }

    fn tuple(&mut self, parts: Vec<Value>) -> Result<(), String> {
        self.parts += parts.len();
        if parts.len() > MAX_PARTS || self.parts > MAX_ALL_PARTS {
            return refuse("larger tuples than those of an array of numbers");
        }
        let nests = |part: &Value| matches!(part, Value::Tuple(parts) if !parts.iter().all(Value::is_plain));
        if parts.iter().any(nests) {
            return refuse("tuples in one another");
        }
        self.stack.push(Value::Tuple(parts.into()));
        Ok(())
    }

    fn append(&mut self, elements: Vec<Value>) -> Result<(), String> {
        let Value::List(list) = self.top()? else { return Err(damaged()) };
        for element in elements {
            match element {
                Value::Float(number) => list.numbers.push(number),
                Value::Int(number) => list.numbers.push(number as f64),
                Value::Array(array) => list.arrays.push(array),
                other => return refuse(other.kind()),
            }
        }
        Ok(())
    }

    // Operations that would execute code in Python.

    fn call(&mut self) -> Result<(), String> {
        let parts = self.pop_many(2)?;
        let [Value::Name(name), Value::Tuple(arguments)] = &parts[..] else { return Err(damaged()) };
        let value = match (name, &arguments[..]) {
            (Name::Reconstruct, [Value::Name(Name::NdArray), ..]) => Value::EmptyArray,
            (Name::Dtype, [Value::Text(code), ..]) => Value::Dtype(Dtype::find(code)?),
            (Name::Bytes, []) => Value::Bytes([].into()),
            (Name::Scalar, [Value::Dtype(dtype), Value::Bytes(bytes)]) => match dtype.decode(bytes).as_deref() {
                Some(&[number]) => Value::Float(number),
                _ => return Err(damaged()),
            },
            (Name::Encode, [Value::Text(text), Value::Text(encoding)]) if &**encoding == "latin1" => {
                self.use_bytes(text.len())?;
                let bytes: Option<Rc<[u8]>> = text.chars().map(|letter| u8::try_from(letter).ok()).collect();
                Value::Bytes(bytes.ok_or_else(damaged)?)
            }
            _ => return Err(damaged()),
        };
        self.stack.push(value);
        Ok(())
    }

    /// Sets the state of an array, or of a type.
    fn build(&mut self) -> Result<(), String> {
        let parts = self.pop_many(2)?;
        let value = match &parts[..] {
            [Value::EmptyArray, Value::Tuple(state)] => {
                let [Value::Int(_), Value::Tuple(shape), Value::Dtype(dtype), Value::Bool(fortran_order), data] =
                    &state[..]
                else {
                    return Err(damaged());
                };
                // Objects are listed in C order in any case.
                if *fortran_order && *dtype != Dtype::Object {
                    return refuse_form("an array in Fortran order");
                }
                let side = |value: &Value| match value {
                    Value::Int(side) => usize::try_from(*side).ok(),
                    _ => None,
                };
                let shape = shape.iter().map(side).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
                Value::Array(self.numbers(shape, *dtype, data)?)
            }
            // The byte order is the second element.
            [Value::Dtype(dtype), Value::Tuple(state)] => match state.get(1) {
                Some(Value::Text(order)) if matches!(&**order, "<" | "|" | "=") => Value::Dtype(*dtype),
                _ => return refuse_form("numbers of another byte order"),
            },
            _ => return Err(damaged()),
        };
        self.stack.push(value);
        Ok(())
    }

    /// Returns the array of a shape that has these elements.
    fn numbers(&mut self, mut shape: Vec<usize>, dtype: Dtype, data: &Value) -> Result<Numbers, String> {
        let values = match data {
            Value::Bytes(bytes) if dtype != Dtype::Object => {
                self.use_bytes(bytes.len())?;
                let numbers = dtype.decode(bytes).ok_or_else(damaged)?;
                self.count(numbers.len())?;
                numbers
            }
            Value::List(list) if dtype == Dtype::Object && list.arrays.is_empty() => {
                self.count(list.numbers.len())?;
                list.numbers.clone()
            }
            Value::List(list) if dtype == Dtype::Object && list.numbers.is_empty() => {
                let inner = &list.arrays[0].shape;
                if list.arrays.iter().any(|array| array.shape != *inner) {
                    return refuse_form("arrays of different shapes");
                }
                self.count(list.arrays[0].values.len().saturating_mul(list.arrays.len()))?;
                if elements(&shape) != Some(list.arrays.len()) {
                    return Err(damaged());
                }
                shape.extend(inner);
                list.arrays.iter().flat_map(|array| array.values.iter().copied()).collect()
            }
            Value::List(_) => return refuse_form("numbers beside arrays"),
            _ => return Err(damaged()),
        };
        if shape.len() > MAX_PARTS {
            return refuse_form("an array of too many dimensions");
        }
        if elements(&shape) != Some(values.len()) {
            return Err(damaged());
        }
        Ok(Numbers { shape, values })
    }

    /// Counts bytes that are decoded, because a short pickle could use the same ones many times.
    fn use_bytes(&mut self, bytes: usize) -> Result<(), String> {
        self.used = self.used.saturating_add(bytes);
        if self.used / 2 > self.length { refuse_form("the same bytes again and again") } else { Ok(()) }
    }

    /// Counts numbers that are put into an array.
    fn count(&mut self, numbers: usize) -> Result<(), String> {
        self.counted = self.counted.saturating_add(numbers);
        if self.counted > self.most { refuse_form("too many numbers") } else { Ok(()) }
    }
}
