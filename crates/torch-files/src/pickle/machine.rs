//! A stack machine for the operations of a pickle, protocols 0 to 5.

use std::collections::HashMap;

use super::allowed::Allowed;
use super::call;
use super::operands::Operands;
use super::value::{Pickled, Value, ValueId};
use crate::error::Error;

/// The largest number of operations in a pickle. A state dict needs about 40 per tensor.
const MAX_OPERATIONS: usize = 1 << 20;

/// The largest number of bytes that calls may copy. Everything else takes memory proportional to the pickle.
const MAX_COPIED: usize = 1 << 26;

/// Interprets the pickle at the start of `bytes`. More bytes may follow it.
pub(crate) fn run(bytes: &[u8]) -> Result<Pickled, Error> {
    let pickled = Pickled { values: Vec::new(), top: ValueId(0), length: 0 };
    let machine = Machine {
        input: Operands::new(bytes),
        pickled,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
    };
    machine.run()
}

struct Machine<'a> {
    input: Operands<'a>,
    pickled: Pickled,
    stack: Vec<ValueId>,
    /// The positions of the marks in the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, ValueId>,
    /// The bytes that calls have copied.
    copied: usize,
}

impl Machine<'_> {
    fn run(mut self) -> Result<Pickled, Error> {
        for _ in 0..MAX_OPERATIONS {
            let start = self.input.position();
            if self.operation(start)? {
                self.pickled.top = self.pop()?;
                self.pickled.length = self.input.position();
                return Ok(self.pickled);
            }
        }
        Error::unsupported(format!("its pickle has more than {MAX_OPERATIONS} operations; no state dict needs as many"))
    }

    /// Interprets the operation at `start`. Returns whether it was the last one.
    fn operation(&mut self, start: usize) -> Result<bool, Error> {
        match self.input.byte()? {
            b'.' => return Ok(true),
            0x80 => self.input.protocol()?,
            0x95 => self.input.take(8).map(drop)?, // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.above_mark().map(drop)?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }

            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => self.fixed(|[byte]: [u8; 1]| Value::Int(byte.into()))?,
            b'M' => self.fixed(|two| Value::Int(u16::from_le_bytes(two).into()))?,
            b'J' => self.fixed(|four| Value::Int(i32::from_le_bytes(four).into()))?,
            b'G' => self.fixed(|_: [u8; 8]| Value::Float)?,
            0x8a => {
                let value = self.input.long(1)?;
                self.push(value);
            }
            0x8b => {
                let value = self.input.long(4)?;
                self.push(value);
            }
            b'I' | b'L' => {
                let value = self.input.decimal()?;
                self.push(value);
            }
            b'F' => {
                self.input.line()?;
                self.push(Value::Float);
            }

            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            b'V' => {
                let text = self.input.line()?.to_owned();
                self.push(Value::Text(text));
            }
            b'S' => {
                let text = self.input.quoted()?;
                self.push(Value::Text(text));
            }
            b'C' => self.skip_bytes(1)?,
            b'B' => self.skip_bytes(4)?,
            0x8e | 0x96 => self.skip_bytes(8)?,

            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let parts = self.above_mark()?;
                self.push(Value::Tuple(parts));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'l' => {
                let parts = self.above_mark()?;
                self.push(Value::List(parts));
            }
            b'a' => {
                let part = self.pop()?;
                self.append(&[part])?;
            }
            b'e' => {
                let parts = self.above_mark()?;
                self.append(&parts)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let parts = self.above_mark()?;
                self.push(Value::Dict(Vec::new()));
                self.set(&parts)?;
            }
            b's' => {
                let parts = self.pop_many(2)?;
                self.set(&parts)?;
            }
            b'u' => {
                let parts = self.above_mark()?;
                self.set(&parts)?;
            }

            b'p' => {
                let key = self.input.memo_key()?;
                self.put(key)?;
            }
            b'q' => {
                let key = self.input.length(1)?;
                self.put(key)?;
            }
            b'r' => {
                let key = self.input.length(4)?;
                self.put(key)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'g' => {
                let key = self.input.memo_key()?;
                self.get(key)?;
            }
            b'h' => {
                let key = self.input.length(1)?;
                self.get(key)?;
            }
            b'j' => {
                let key = self.input.length(4)?;
                self.get(key)?;
            }

            b'c' => {
                let (module, name) = (self.input.line()?.to_owned(), self.input.line()?.to_owned());
                self.name(&module, &name, start)?;
            }
            0x93 => {
                let parts = self.pop_many(2)?;
                let text = |id| self.pickled.text(id).map(str::to_owned);
                let (Some(module), Some(name)) = (text(parts[0]), text(parts[1])) else {
                    return Error::damaged(format!("the name at byte {start} of its pickle is no text"));
                };
                self.name(&module, &name, start)?;
            }
            b'R' => self.call(start)?,
            b'b' => self.build(start)?,
            b'Q' => {
                let id = self.pop()?;
                let storage = call::storage(&self.pickled, id)?;
                self.copy(storage.key.len())?;
                self.push(Value::Storage(storage));
            }

            b'i' => {
                let (module, name) = (self.input.line()?.to_owned(), self.input.line()?.to_owned());
                return refuse(format!("an object of {module}.{name}"), start);
            }
            b'o' | 0x81 | 0x92 => return refuse("an object of a class", start),
            b'P' => return refuse("a persistent id as text", start),
            0x82..=0x84 => return refuse("an extension's code", start),
            operation => {
                return Error::damaged(format!(
                    "byte {start} of its pickle, {operation:#04x}, is no operation of a state dict"
                ));
            }
        }
        Ok(false)
    }

    fn fixed<const N: usize>(&mut self, value: impl FnOnce([u8; N]) -> Value) -> Result<(), Error> {
        let bytes = self.input.array()?;
        self.push(value(bytes));
        Ok(())
    }

    fn text(&mut self, bytes: u64) -> Result<(), Error> {
        let text = self.input.text(bytes)?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn skip_bytes(&mut self, bytes: u64) -> Result<(), Error> {
        let length = self.input.length(bytes)?;
        self.input.take(length)?;
        self.push(Value::Bytes);
        Ok(())
    }

    // The stack.

    fn push(&mut self, value: Value) {
        // The number of operations is limited, so the index fits into 32 bits.
        self.stack.push(ValueId(self.pickled.values.len() as u32));
        self.pickled.values.push(value);
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<ValueId, Error> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => self.stack_underflow(),
        }
    }

    fn pop(&mut self) -> Result<ValueId, Error> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<ValueId>, Error> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => self.stack_underflow(),
        }
    }

    fn above_mark(&mut self) -> Result<Vec<ValueId>, Error> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => self.stack_underflow(),
        }
    }

    fn stack_underflow<T>(&self) -> Result<T, Error> {
        Error::damaged(format!("its pickle has nothing to work on before byte {}", self.input.position()))
    }

    fn tuple(&mut self, count: usize) -> Result<(), Error> {
        let parts = self.pop_many(count)?;
        self.push(Value::Tuple(parts));
        Ok(())
    }

    fn append(&mut self, parts: &[ValueId]) -> Result<(), Error> {
        let top = self.top()?;
        match &mut self.pickled.values[top.0 as usize] {
            Value::List(list) => {
                list.extend_from_slice(parts);
                Ok(())
            }
            other => {
                Error::damaged(format!("its pickle adds to {} before byte {}", other.kind(), self.input.position()))
            }
        }
    }

    fn set(&mut self, parts: &[ValueId]) -> Result<(), Error> {
        let top = self.top()?;
        let (pairs, rest) = parts.as_chunks::<2>();
        match &mut self.pickled.values[top.0 as usize] {
            Value::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            other => Error::damaged(format!(
                "its pickle sets entries of {} before byte {}",
                other.kind(),
                self.input.position()
            )),
        }
    }

    fn put(&mut self, key: u64) -> Result<(), Error> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn get(&mut self, key: u64) -> Result<(), Error> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => Error::damaged(format!(
                "its pickle asks for value {key} before it is there, at byte {}",
                self.input.position()
            )),
        }
    }

    // Operations that would execute code in Python.

    fn name(&mut self, module: &str, name: &str, start: usize) -> Result<(), Error> {
        match Allowed::find(module, name) {
            Some(allowed) => {
                self.push(Value::Allowed(allowed));
                Ok(())
            }
            None => refuse(format!("{module}.{name}"), start),
        }
    }

    fn call(&mut self, start: usize) -> Result<(), Error> {
        let parts = self.pop_many(2)?;
        let (Value::Allowed(allowed), Value::Tuple(arguments)) =
            (self.pickled.get(parts[0]), self.pickled.get(parts[1]))
        else {
            return refuse(format!("a call of {}", self.pickled.get(parts[0]).kind()), start);
        };
        let Some(value) = allowed.call(&self.pickled, arguments) else {
            return refuse(format!("a call of {allowed:?} with other arguments than torch.save gives it"), start);
        };
        match &value {
            Value::Tensor(view) => self.copy(view.storage.key.len() + 8 * (view.shape.len() + view.strides.len()))?,
            Value::Dict(entries) => self.copy(8 * entries.len())?,
            _ => {}
        }
        self.push(value);
        Ok(())
    }

    /// Ignores the attributes of an ordered dictionary: PyTorch's `_metadata`, the versions of modules.
    fn build(&mut self, start: usize) -> Result<(), Error> {
        let state = self.pop()?;
        let object = self.top()?;
        match (self.pickled.get(object), self.pickled.get(state)) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            (object, _) => refuse(format!("the state of {} to be set", object.kind()), start),
        }
    }

    /// Counts the bytes that a call copies, because a short pickle could copy a long text many times.
    fn copy(&mut self, bytes: usize) -> Result<(), Error> {
        self.copied += bytes;
        if self.copied > MAX_COPIED {
            return Error::unsupported("its pickle copies the same text again and again, which no state dict needs");
        }
        Ok(())
    }
}

fn refuse<T>(name: impl Into<String>, position: usize) -> Result<T, Error> {
    Err(Error::Refused { name: name.into(), position })
}
