//! An LZO1X decoder for one segment.
//!
//! Law E3: the stream may be anything. Every read, every distance and every length is checked before use.
//!
//! The instructions, by their first byte, and by how many literals the one before left behind (`state`; 4 stands for
//! a long run):
//!
//! | byte | state | meaning |
//! |---|---|---|
//! | 18..=255 | first of the stream | byte - 17 literals |
//! | 0..=15 | 0 | a run of 4 and more literals |
//! | 0..=15 | 1..=3 | match of 2 bytes, at most 1 KiB back |
//! | 0..=15 | 4 | match of 3 bytes, 2 to 3 KiB back |
//! | 16..=31 | any | match more than 16 KiB back, or the end |
//! | 32..=63 | any | match of any length, at most 16 KiB back |
//! | 64..=255 | any | match of 3 to 8 bytes, at most 2 KiB back |
//!
//! The lowest two bits of a match count the literals that follow it.

use super::Fault;

/// Bytes of a careless copy.
const STRIDE: usize = 16;

const CUT_SHORT: &str = "the stream is cut short";
const TOO_MUCH: &str = "a segment holds more than one block";

/// Decodes `segment` into `output` and returns how many bytes it held.
pub(super) fn decode(segment: &[u8], output: &mut [u8]) -> Result<usize, Fault> {
    let mut decoder = Decoder { input: segment, at: 0, output, filled: 0 };
    match decoder.run() {
        Ok(()) => Ok(decoder.filled),
        Err(what) => Err((what, decoder.at.min(segment.len()))),
    }
}

struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    output: &'a mut [u8],
    filled: usize,
}

impl Decoder<'_> {
    fn run(&mut self) -> Result<(), &'static str> {
        let mut state = 0;
        if let Some(&first) = self.input.first()
            && first > 17
        {
            self.at = 1;
            let run = usize::from(first) - 17;
            self.literals(run)?;
            state = run.min(4);
        }
        loop {
            let byte = usize::from(self.byte()?);
            let (length, distance, literals) = match byte {
                64.. => {
                    let high = usize::from(self.byte()?);
                    ((byte >> 5) + 1, (high << 3) + (byte >> 2 & 7) + 1, byte & 3)
                }
                32..64 => {
                    let length = self.length(byte & 31, 31)? + 2;
                    let word = self.word()?;
                    (length, (word >> 2) + 1, word & 3)
                }
                16..32 => {
                    let length = self.length(byte & 7, 7)? + 2;
                    let word = self.word()?;
                    let distance = ((byte & 8) << 11) + (word >> 2);
                    if distance == 0 {
                        return self.end(length);
                    }
                    (length, distance + 16384, word & 3)
                }
                _ if state == 0 => {
                    let run = self.length(byte, 15)? + 3;
                    self.literals(run)?;
                    state = 4;
                    continue;
                }
                _ => {
                    let back = (usize::from(self.byte()?) << 2) + (byte >> 2);
                    let (length, least) = if state == 4 { (3, 2049) } else { (2, 1) };
                    (length, back + least, byte & 3)
                }
            };
            self.copy(distance, length)?;
            if literals > 0 {
                self.literals(literals)?;
            }
            state = literals;
        }
    }

    fn end(&self, length: usize) -> Result<(), &'static str> {
        if length != 3 {
            return Err("the end mark is malformed");
        }
        if self.at < self.input.len() {
            return Err("the stream goes on behind its end mark");
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = *self.input.get(self.at).ok_or(CUT_SHORT)?;
        self.at += 1;
        Ok(byte)
    }

    fn word(&mut self) -> Result<usize, &'static str> {
        let bytes =
            self.input.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(CUT_SHORT)?;
        self.at += 2;
        Ok(u16::from_le_bytes(*bytes).into())
    }

    /// A length whose field is `short`, or is to be read from the bytes that follow if that is zero.
    fn length(&mut self, short: usize, base: usize) -> Result<usize, &'static str> {
        if short != 0 {
            return Ok(short);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Ok(length + usize::from(last)),
            }
        }
    }

    fn literals(&mut self, run: usize) -> Result<(), &'static str> {
        if run <= STRIDE
            && let Some(source) = self.input[self.at..].first_chunk::<STRIDE>()
            && let Some(place) = self.output[self.filled..].first_chunk_mut::<STRIDE>()
        {
            *place = *source;
        } else {
            let source = self.input.get(self.at..self.at + run).ok_or(CUT_SHORT)?;
            let place = self.output.get_mut(self.filled..self.filled + run).ok_or(TOO_MUCH)?;
            place.copy_from_slice(source);
        }
        self.at += run;
        self.filled += run;
        Ok(())
    }

    fn copy(&mut self, distance: usize, length: usize) -> Result<(), &'static str> {
        let from = self
            .filled
            .checked_sub(distance)
            .ok_or("a match begins before the start of the block")?;
        let end = self.filled + length;
        if end > self.output.len() {
            return Err(TOO_MUCH);
        }
        if length <= STRIDE && distance >= STRIDE && self.filled + STRIDE <= self.output.len() {
            self.output.copy_within(from..from + STRIDE, self.filled);
        } else if distance >= length {
            self.output.copy_within(from..from + length, self.filled);
        } else {
            // The match overlaps itself: what is copied doubles the pattern until the length is reached.
            let mut done = 0;
            while done < length {
                let step = (distance + done).min(length - done);
                self.output.copy_within(from..from + step, self.filled + done);
                done += step;
            }
        }
        self.filled = end;
        Ok(())
    }
}
