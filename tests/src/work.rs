//! Random work, done on a volume and on the model alike.

use cowback::Volume;
use cowback_testkit::random::Rng;

use crate::model::Model;
use crate::read_all;

/// How the work is made.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Most bytes of one write.
    pub write_max: u64,
    /// Writes begin below this offset.
    pub offset_max: u64,
}

impl Shape {
    /// Small files: for many quick states.
    pub const SMALL: Self = Self { write_max: 12_000, offset_max: 20_000 };
    /// Files of a few chunks.
    pub const LARGE: Self = Self { write_max: 700_000, offset_max: 1_500_000 };
}

/// A path out of a few, in the root or in one of three directories.
fn path(rng: &mut Rng) -> String {
    let name = format!("{}{}", rng.pick(&["f", "g", "x"]), rng.below(4));
    if rng.percent(40) { format!("/{name}") } else { format!("/{}/{name}", dir(rng)) }
}

fn dir(rng: &mut Rng) -> &'static str {
    rng.pick::<&str>(&["d0", "d1", "d2"])
}

/// Words, noise, zeros, or words and noise in turns.
#[must_use]
pub fn content(rng: &mut Rng, len: usize) -> Vec<u8> {
    let noise = |rng: &mut Rng| rng.bytes(len);
    let words = |rng: &mut Rng| {
        let word = format!("{} copy on write, ", rng.next_u64());
        word.bytes().cycle().take(len).collect::<Vec<u8>>()
    };
    match rng.below(5) {
        0 => noise(rng),
        1 => vec![0; len],
        2 => {
            let (noise, mut words) = (noise(rng), words(rng));
            for (i, byte) in words.iter_mut().enumerate() {
                if (i / 30_000) % 2 == 1 {
                    *byte = noise[i];
                }
            }
            words
        }
        _ => words(rng),
    }
}

/// Does one random operation on both, and checks that both agree on whether it is possible.
///
/// # Panics
/// If they do not, or if what is read differs.
pub fn step(rng: &mut Rng, shape: Shape, volume: &Volume, model: &mut Model) {
    let (a, b) = (path(rng), path(rng));
    let (done, expected, what) = match rng.below(100) {
        0..12 => (volume.create_file(&a).map(drop), model.create(&a), format!("create {a}")),
        12..16 => {
            let dir = format!("/{}", dir(rng));
            (volume.create_dir(&dir), model.create_dir(&dir), format!("mkdir {dir}"))
        }
        16..56 => return write(rng, shape, volume, model),
        56..64 => return truncate(rng, shape, volume, model),
        64..70 => (volume.rename(&a, &b), model.rename(&a, &b), format!("rename {a} {b}")),
        70..72 => {
            let (a, b) = (format!("/{}", dir(rng)), format!("/{}", dir(rng)));
            (volume.rename(&a, &b), model.rename(&a, &b), format!("rename {a} {b}"))
        }
        72..77 => (volume.remove_file(&a), model.remove_file(&a), format!("unlink {a}")),
        77..79 => {
            let dir = format!("/{}", dir(rng));
            (volume.remove_dir(&dir), model.remove_dir(&dir), format!("rmdir {dir}"))
        }
        79..83 if model.content(&a).is_some() => {
            (volume.hard_link(&a, &b), model.hard_link(&a, &b), format!("link {a} {b}"))
        }
        83..86 => (volume.symlink(&a, &b), model.symlink(&a, &b), format!("symlink {a} {b}")),
        _ => return read(rng, volume, model),
    };
    assert_eq!(done.is_ok(), expected, "{what}: {done:?}");
}

fn write(rng: &mut Rng, shape: Shape, volume: &Volume, model: &mut Model) {
    let files = model.files();
    if files.is_empty() {
        return;
    }
    let path = rng.pick(&files).clone();
    let len = usize::try_from(1 + rng.below(shape.write_max)).unwrap_or(1);
    let at = match rng.below(4) {
        0 => 0,
        1 => model.content(&path).map_or(0, |content| content.len() as u64),
        2 => rng.below(shape.offset_max) / 4096 * 4096,
        _ => rng.below(shape.offset_max),
    };
    let data = content(rng, len);
    let file = volume.open_file(&path).expect("the model has it");
    file.write_at(at, &data).expect("there is space");
    assert!(model.write(&path, usize::try_from(at).expect("small"), &data));
}

fn truncate(rng: &mut Rng, shape: Shape, volume: &Volume, model: &mut Model) {
    let files = model.files();
    if files.is_empty() {
        return;
    }
    let path = rng.pick(&files).clone();
    let len = match rng.below(3) {
        0 => rng.below(3000),
        _ => rng.below(shape.offset_max),
    };
    volume.open_file(&path).expect("the model has it").set_len(len).expect("there is space");
    assert!(model.truncate(&path, usize::try_from(len).expect("small")));
}

fn read(rng: &mut Rng, volume: &Volume, model: &Model) {
    let files = model.files();
    if files.is_empty() {
        return;
    }
    let path = rng.pick(&files);
    let found = read_all(volume, path).expect("it can be read");
    assert!(model.content(path) == Some(&found), "content of {path}");
}
