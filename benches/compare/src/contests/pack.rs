//! A tree into an image: `cowback pack`, `cp -a` into a mounted btrfs, `mkfs.btrfs --rootdir`, `mksquashfs`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::contest::{Contestant, KERNEL, Line, OURS, Outcome, Table, contest};
use crate::contests::{CODEC, Setup, mib, room_for};
use crate::process::Measured;
use crate::{corpus, kernel, process};

const SQUASHFS: &str = "mksquashfs";

pub(crate) fn pack(setup: &Setup) -> Outcome<Table> {
    let (bytes, files) = corpus::size(&setup.tree)?;
    let lines = vec![
        Line::higher("content", "MiB/s"),
        Line::lower("wall time", "s"),
        Line::lower("peak memory of the process", "MiB"),
        Line::lower("image", "MiB"),
    ];
    let figures = move |Measured { seconds, peak_bytes }, image: u64| {
        Ok(vec![mib(bytes) / seconds, seconds, mib(peak_bytes), mib(image)])
    };
    let mut notes = vec![
        "The kernel: `cp -a` and `sync -f` into a fresh btrfs. What memory that takes is the kernel's, and not told. Its image is what the file system \
         counts as used."
            .to_owned(),
    ];
    let ours = || {
        let image = Output::new(setup, "pack.img");
        figures(process::run(pack_command(setup, &image.0, &[]))?, image.len()?)
    };
    let kernel = || {
        let mounted = kernel::Mounted::new(&setup.dir, room_for(bytes), CODEC, "")?;
        let script = "cp -a \"$1\" \"$2/tree\" && sync -f \"$2\"";
        let mut command = words(&["sh", "-c", script, "sh"]);
        command.extend([setup.tree.clone().into(), mounted.path().into()]);
        let mut figures = figures(process::run(command)?, mounted.used()?)?;
        figures[2] = f64::NAN; // the memory of `cp` is not what it takes
        Ok(figures)
    };
    let mut contestants = vec![Contestant::new(OURS, ours), Contestant::new(KERNEL, kernel)];

    let (name, mkfs) = mkfs_command(&mut notes);
    contestants.push(Contestant::new(name, move || {
        let image = Output::new(setup, "mkfs.img");
        std::fs::File::create(&image.0)?;
        let mut command = mkfs.clone();
        command.extend([setup.tree.clone().into(), image.0.clone().into()]);
        figures(process::run(command)?, image.len()?)
    }));
    if process::is_installed(SQUASHFS) {
        contestants.push(Contestant::new(SQUASHFS, move || {
            let image = Output::new(setup, "pack.squashfs");
            figures(process::run(squashfs_command(setup, &image.0))?, image.len()?)
        }));
        notes.push("`mksquashfs`: zstd at level 3, blocks of 128 KiB, the same threads. It removes duplicate files, and packs small ones together.".to_owned());
    } else {
        notes.push("`mksquashfs` is not installed: left out.".to_owned());
    }
    Ok(Table {
        contest: "pack",
        title: format!("A tree of {} MiB in {files} files into an image, {CODEC}", bytes >> 20),
        rows: contest(lines, setup.runs, contestants)?,
        notes,
    })
}

/// `cowback pack` of the tree.
pub(crate) fn pack_command(setup: &Setup, image: &std::path::Path, more: &[&str]) -> Vec<OsString> {
    let mut command = vec![setup.program.clone().into()];
    command.extend(words(&["pack", "-q", "--overwrite", "--force", "--compress", CODEC]));
    command.push(format!("--threads={}", setup.threads).into());
    command.extend(words(more));
    command.extend([setup.tree.clone().into(), image.into()]);
    command
}

/// `mkfs.btrfs` with what the installed one can do, and what it is called then. The tree and the image are to follow.
fn mkfs_command(notes: &mut Vec<String>) -> (&'static str, Vec<OsString>) {
    let mut command = words(&["mkfs.btrfs", "-q", "-f", "--shrink"]);
    let compresses = process::help("mkfs.btrfs").contains("--compress");
    let name = if compresses {
        command.extend(words(&["--compress", CODEC]));
        "mkfs.btrfs --rootdir --compress"
    } else {
        notes.push(
            "The installed `mkfs.btrfs` does not know `--compress`: its image is **not compressed**."
                .to_owned(),
        );
        "mkfs.btrfs --rootdir, uncompressed"
    };
    command.push("--rootdir".into());
    (name, command)
}

fn squashfs_command(setup: &Setup, image: &std::path::Path) -> Vec<OsString> {
    let mut command = vec![SQUASHFS.into(), setup.tree.clone().into(), image.into()];
    command.extend(words(&["-comp", "zstd", "-Xcompression-level", "3", "-b", "131072"]));
    command.extend(words(&["-noappend", "-no-progress", "-processors"]));
    command.push(setup.threads.to_string().into());
    command
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A file that some program writes, removed when dropped.
pub(crate) struct Output(pub(crate) PathBuf);

impl Output {
    pub(crate) fn new(setup: &Setup, name: &str) -> Self {
        let path = setup.dir.join(name);
        drop(std::fs::remove_file(&path));
        Self(path)
    }

    /// Bytes that the file takes: holes do not count.
    pub(crate) fn len(&self) -> Outcome<u64> {
        Ok(std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&self.0)?) * 512)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}
