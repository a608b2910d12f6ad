//! What `pack` keeps of trees that have more than btrfs does, or are made of several file systems.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cowback::{Options, Volume};
use cowback_testkit::skipped;
use rustix::fs::{XattrFlags, lsetxattr};

use crate::common::{Place, cowback, program};

fn open(image: &str) -> Volume {
    Volume::open(image, &Options { read_only: true, ..Options::default() }).unwrap()
}

/// A directory in memory: the file systems of disks have closer limits than btrfs.
fn in_memory() -> Option<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").ok()
}

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

#[test]
fn attributes_that_btrfs_has_no_room_for_are_named_and_counted_and_all_else_is_kept() {
    let what = "packing of attributes that are too large";
    let Some(dir) = in_memory() else { return skipped(what, "no /dev/shm") };
    let (src, place) = (dir.path().join("src"), Place::new());
    fs::create_dir_all(src.join("dir")).unwrap();
    for name in ["dir/a", "dir/b"] {
        fs::write(src.join(name), name).unwrap();
    }
    for (name, value) in [
        ("user.a", &[1; 100][..]),
        ("user.b", &[2; 20_000]),
        ("user.c", &[3; 17_000]),
        ("user.d", b"4"),
    ] {
        for path in ["dir", "dir/a"] {
            if !set(&src.join(path), name, value) {
                return skipped(what, "no such attributes in /dev/shm");
            }
        }
    }
    let src = src.to_str().unwrap();
    let image = place.arg("a.img");
    let ran = cowback(&["pack", src, &image, "--json"]);
    let named = |path: &str, name: &str| format!("cowback: {src}/{path}: attribute user.{name}: ");
    assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{}", ran.err);
    assert!(ran.err.contains(": attribute user.b: "), "{}", ran.err);
    assert!(!fs::exists(&image).unwrap(), "an image that lacks something takes no other's place");

    let ran = cowback(&["pack", src, &image, "--json", "--keep-going"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.err);
    for (path, name) in [("dir/a", "b"), ("dir/a", "c"), ("dir", "b"), ("dir", "c")] {
        let named = named(path, name);
        assert!(lines.iter().any(|line| line.starts_with(&named)), "{named} in {}", ran.err);
    }
    let report = ran.json();
    let counts = ["files", "dirs", "left_out", "attributes_left_out"];
    assert_eq!(counts.map(|name| report[name].as_u64()), [2, 2, 0, 4].map(Some), "{report}");
    let volume = open(&image);
    for path in ["dir", "dir/a"] {
        let mut kept = volume.list_xattrs(path).unwrap();
        kept.retain(|name| name.starts_with(b"user."));
        kept.sort();
        assert_eq!(kept, [b"user.a", b"user.d"], "{path}");
        assert_eq!(volume.get_xattr(path, b"user.d").unwrap(), b"4");
    }
    assert!(volume.exists("dir/b").unwrap());
    drop(volume);
    cowback(&["check", &image]).ok();
}

#[test]
fn a_file_with_more_names_than_btrfs_gives_one_is_packed_as_two() {
    const NAMES: u32 = 65_535 + 10;
    let what = "packing of a file with very many names";
    let Some(dir) = in_memory() else { return skipped(what, "no /dev/shm") };
    let (src, place) = (dir.path().join("src"), Place::new());
    fs::create_dir(&src).unwrap();
    let name = |number: u32| format!("{number:05}");
    fs::write(src.join(name(0)), b"content").unwrap();
    for number in 1..NAMES {
        if let Err(error) = fs::hard_link(src.join(name(0)), src.join(name(number))) {
            return skipped(what, &error.to_string());
        }
    }
    let image = place.arg("a.img");
    let ran = cowback(&["pack", src.to_str().unwrap(), &image, "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.lines().count() == 1 && ran.err.contains("65535: has more names"),
        "{}",
        ran.err
    );
    let report = ran.json();
    assert_eq!((&report["files"], &report["hard_links"]), (&2.into(), &(NAMES - 2).into()));
    let volume = open(&image);
    for (number, names) in [(0, 65_535), (NAMES - 1, 10)] {
        assert_eq!(volume.metadata(name(number)).unwrap().nlink, names);
        assert_eq!(volume.open_file(name(number)).unwrap().read_block(0).unwrap(), &b"content"[..]);
    }
    drop(volume);
    cowback(&["check", &image]).ok();
}

#[test]
fn files_that_tell_no_size_are_packed_with_what_they_hold() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("empty/file"), b"").unwrap();
    // A process that stays as it is, and tells about its standard input.
    let mut child =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Once it has answered it has opened all that it opens.
    child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let told = format!("/proc/{}/fdinfo", child.id());
    let expected = fs::read_to_string(format!("{told}/0")).unwrap();
    assert_eq!(fs::metadata(format!("{told}/0")).unwrap().size(), 0);
    let image = place.arg("a.img");
    let ran = cowback(&["pack", &told, &image]);
    drop(child.stdin.take());
    child.wait().unwrap();
    ran.ok();
    assert_eq!(cowback(&["cat", &image, "0"]).ok().text(), expected);
    assert!(expected.contains("pos:"));

    let report = cowback(&["pack", &place.arg("empty"), &place.arg("b.img"), "--json"]).ok().json();
    assert_eq!((&report["files"], &report["bytes_in"]), (&1.into(), &0.into()));
}

#[test]
fn what_is_mounted_in_the_source_is_packed_unless_it_is_to_be_left_alone() {
    let what = "packing of what is mounted in the source";
    let place = Place::new();
    fs::create_dir_all(place.path("src/inner")).unwrap();
    fs::write(place.path("src/outside"), b"outside").unwrap();
    // In a name space of its own: nothing has to be undone.
    let user = if crate::common::is_root() { "-m" } else { "-rm" };
    let script = "mount -t tmpfs none \"$1/inner\" || exit 77
        echo inside > \"$1/inner/file\" || exit 77; mkdir \"$1/inner/dir\" || exit 77
        shift; exec \"$@\"";
    for (flag, within) in [("--quiet", "dir\nfile\n"), ("-x", ""), ("--one-file-system", "")] {
        let image = place.arg(&format!("{flag}.img"));
        let mut command = Command::new("unshare");
        command.args([user, "sh", "-c", script, "sh", &place.arg("src")]);
        command.arg(program().get_program()).args(["pack", &place.arg("src"), &image, flag]);
        match command.output() {
            Ok(ran) if ran.status.success() => {}
            Ok(ran) if ran.status.code() == Some(77) || ran.stderr.starts_with(b"unshare:") => {
                return skipped(what, &String::from_utf8_lossy(&ran.stderr));
            }
            Ok(ran) => panic!("{}: {}", ran.status, String::from_utf8_lossy(&ran.stderr)),
            Err(error) => return skipped(what, &error.to_string()),
        }
        assert_eq!(cowback(&["ls", &image]).ok().text(), "inner\noutside\n");
        assert_eq!(cowback(&["ls", &image, "inner"]).ok().text(), within, "{flag}");
    }
    let help = cowback(&["pack", "--help"]).ok().text();
    let words: Vec<&str> = help.split_whitespace().collect();
    let said = "What is mounted inside SOURCE is packed, too, unless --one-file-system is given";
    assert!(words.join(" ").contains(said), "{help}");
}
