//! Commands that show what is in an image.

use std::collections::HashSet;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cowback::{FileType, Metadata, Volume};

use crate::args::{CatArgs, LsArgs};
use crate::engine;
use crate::failure::{About, Failure, Outcome, Status, in_volume, readable, shown};
use crate::times;
use crate::tour::{Step, Tour, own};

/// Bytes read at once.
const BUFFER: usize = 1 << 20;

pub(crate) fn cat(args: &CatArgs) -> Outcome<Status> {
    let volume = engine::open_for_reading(&args.image, &args.engine)?;
    let file = volume.open_file(&args.path).about(&args.image)?;
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    loop {
        let got = file.read_at(at, &mut buffer).map_err(|error| {
            let what = format!("{}: {}", shown(&args.image), in_volume(&args.path));
            Failure::new(what, own(&error))
        })?;
        if got == 0 {
            break;
        }
        out.write_all(&buffer[..got]).map_err(|error| Failure::stdout(&error))?;
        at += got as u64;
    }
    out.flush().map_err(|error| Failure::stdout(&error))?;
    Ok(Status::Done)
}

pub(crate) fn ls(args: &LsArgs) -> Outcome<Status> {
    let volume = engine::open_for_reading(&args.image, &args.engine)?;
    let stdout = io::stdout();
    let escape = stdout.is_terminal();
    let out = BufWriter::new(stdout.lock());
    let mut listing = Listing { volume: &volume, args, escape, out };
    let top = volume.metadata(&args.path).about(&args.image)?;
    if top.kind == FileType::Dir {
        listing.dirs()?;
    } else {
        let name = args.path.as_os_str().as_bytes();
        let line = listing.line(&args.path, name).about(&args.image)?;
        listing.write(&line)?;
    }
    listing.out.flush().map_err(|error| Failure::stdout(&error))?;
    Ok(Status::Done)
}

struct Listing<'a, W> {
    volume: &'a Volume,
    args: &'a LsArgs,
    escape: bool,
    out: W,
}

impl<W: Write> Listing<'_, W> {
    /// Lists the directory asked for, and with -R those below, each under its path.
    fn dirs(&mut self) -> Outcome<()> {
        let mut waiting = vec![self.args.path.clone()];
        let mut entered = HashSet::new();
        let mut first = true;
        while let Some(dir) = waiting.pop() {
            if self.args.recursive {
                let name = self.name(dir_name(&dir));
                let head = [if first { b"" } else { &b"\n"[..] }, &name, b":"];
                self.write(&head.concat())?;
            }
            first = false;
            let what = format!("{}: {}", shown(&self.args.image), in_volume(&dir));
            let fail = |why| Failure::new(what.clone(), why);
            let mut tour = Tour::sharing(self.volume, &dir, std::mem::take(&mut entered));
            tour.enter().map_err(fail)?;
            let mut below = Vec::new();
            while let Some(step) = tour.next() {
                match step {
                    Step::Entry(entry) => {
                        let line = self.line(tour.path(), &entry.name).about(&self.args.image)?;
                        self.write(&line)?;
                        if self.args.recursive && entry.kind == FileType::Dir && entry.ino != 0 {
                            below.push(tour.path().to_path_buf());
                        }
                    }
                    Step::Bad(why) => return Err(fail(why)),
                    Step::Leave => break,
                }
            }
            entered = tour.end();
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> Outcome<()> {
        let written = self.out.write_all(line).and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|error| Failure::stdout(&error))
    }

    fn name(&self, name: &[u8]) -> Vec<u8> {
        if self.escape { readable(name).into_bytes() } else { name.to_vec() }
    }

    /// An entry's line.
    fn line(&self, path: &Path, name: &[u8]) -> cowback::Result<Vec<u8>> {
        let mut line = Vec::new();
        if self.args.long {
            let metadata = self.volume.metadata(path)?;
            line = long(&metadata).into_bytes();
            line.extend(self.name(name));
            if metadata.kind == FileType::Symlink {
                line.extend_from_slice(b" -> ");
                line.extend(self.name(&self.volume.read_link(path)?));
            }
        } else {
            line.extend(self.name(name));
        }
        Ok(line)
    }
}

fn dir_name(path: &Path) -> &[u8] {
    match path.as_os_str().as_bytes() {
        b"" => b"/",
        path => path,
    }
}

/// What `ls -l` says before the name.
fn long(metadata: &Metadata) -> String {
    let size = match metadata.kind {
        FileType::CharDevice | FileType::BlockDevice => {
            format!("{}, {}", metadata.device.0, metadata.device.1)
        }
        _ => metadata.size.to_string(),
    };
    format!(
        "{} {:>3} {:>5} {:>5} {size:>12} {} ",
        mode(metadata),
        metadata.nlink,
        metadata.uid,
        metadata.gid,
        times::utc(metadata.modified.sec)
    )
}

/// Kind and permissions as `drwxr-xr-x`.
fn mode(metadata: &Metadata) -> String {
    let kind = match metadata.kind {
        FileType::Regular => '-',
        FileType::Dir => 'd',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Symlink => 'l',
        _ => '?',
    };
    let mut text = String::from(kind);
    let bits = metadata.permissions;
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let has = |bit: u32| bits >> shift & bit != 0;
        text.push(if has(4) { 'r' } else { '-' });
        text.push(if has(2) { 'w' } else { '-' });
        text.push(match (has(1), bits & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}
