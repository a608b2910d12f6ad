//! The header of a zstd frame, as RFC 8878 describes it: what a reader with a 128 KiB window must know before it
//! begins.
//!
//! Law E3: every field is read with a bound.

/// Most bytes of window that btrfs grants a frame: 2^17.
pub(crate) const WINDOW_MAX: u64 = 1 << 17;
/// [`WINDOW_MAX`] as zstd names it.
pub(crate) const WINDOW_LOG_MAX: u32 = 17;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Bytes of history that the decoder must keep.
    pub(crate) window: u64,
    /// Bytes that the frame holds, if it says so.
    pub(crate) content_size: Option<u64>,
}

impl FrameHeader {
    /// Reads the header at the start of `input`, or says what is wrong and at which offset.
    pub(crate) fn parse(input: &[u8]) -> Result<Self, (&'static str, usize)> {
        if input.get(..4) != Some(&MAGIC) {
            return Err(("no zstd frame begins here", 0));
        }
        let descriptor = *input.get(4).ok_or(("frame header is cut short", 4))?;
        let single_segment = descriptor & 0x20 != 0;
        let mut at = 5;
        let mut window = 0;
        if !single_segment {
            let byte = *input.get(at).ok_or(("frame header is cut short", at))?;
            let base = 1u64 << (10 + (byte >> 3));
            window = base + base / 8 * u64::from(byte & 7);
            at += 1;
        }
        at += [0, 1, 2, 4][usize::from(descriptor & 3)];
        let (width, bias) = match (descriptor >> 6, single_segment) {
            (0, false) => (0, 0),
            (0, true) => (1, 0),
            (1, _) => (2, 256),
            (2, _) => (4, 0),
            _ => (8, 0),
        };
        let field = input.get(at..at + width).ok_or(("frame header is cut short", input.len()))?;
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(field);
        let content_size = (width > 0).then(|| u64::from_le_bytes(wide).saturating_add(bias));
        if single_segment {
            window = content_size.unwrap_or(0);
        }
        Ok(Self { window, content_size })
    }
}
