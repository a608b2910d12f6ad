//! What is refused, and in which words; what is allowed in spite of the environment.

use std::fs;

use crate::common::{Place, cowback, cowback_fed, program};

/// An image with a directory, a file and nothing else.
fn small(place: &Place) -> String {
    let source = place.path("src");
    fs::create_dir_all(source.join("dir/below")).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    let image = place.arg("a.img");
    cowback(&["pack", &place.arg("src"), &image]).ok();
    image
}

#[test]
fn a_link_that_cannot_be_names_what_it_was_to_lead_to() {
    let place = Place::new();
    let image = small(&place);
    cowback(&["ln", &image, "dir", "new"]).fails(1, &[": /dir: is a directory"]);
    cowback(&["ln", &image, "/", "new"]).fails(1, &[": /: is a directory"]);
    cowback(&["ln", &image, "nope", "new"]).fails(1, &[": /nope: no such file"]);
    cowback(&["ln", &image, "nope", "no/new"]).fails(1, &[": /nope: no such file"]);
    cowback(&["ln", &image, "file", "no/new"]).fails(1, &[": /no: no such file"]);
    cowback(&["ln", &image, "dir/below", "file"]).fails(1, &[": /dir/below: is a directory"]);
}

#[test]
fn the_root_can_be_neither_removed_nor_moved() {
    let place = Place::new();
    let image = small(&place);
    let why = ": /: the root directory cannot be removed or moved";
    for path in ["/", ".", "//"] {
        let why = why.trim_start_matches(": /");
        cowback(&["rm", &image, path]).fails(1, &[why]);
        cowback(&["mv", &image, path, "x"]).fails(1, &[why]);
    }
    cowback(&["mv", &image, "/", "dir"]).fails(1, &[why]);
    cowback(&["mkdir", &image, "/"]).fails(1, &[": /: something of that name exists"]);
    assert_eq!(cowback(&["ls", &image]).ok().text(), "dir\nfile\n");
    cowback(&["rm", "-r", &image, "/"]).ok();
    assert_eq!(cowback(&["ls", &image]).ok().text(), "");
}

#[test]
fn an_image_that_is_a_directory_is_said_to_be_one() {
    let place = Place::new();
    let dir = place.arg("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(place.path("f"), b"x").unwrap();
    let (file, out) = (place.arg("f"), place.arg("out"));
    let commands: [&[&str]; 7] = [
        &["ls", &dir],
        &["cat", &dir, "x"],
        &["info", &dir],
        &["check", &dir],
        &["unpack", &dir, &out],
        &["put", &dir, &file, "x"],
        &["rm", &dir, "x"],
    ];
    for command in commands {
        cowback(command).fails(1, &[&dir, "Is a directory"]);
    }
}

#[test]
fn a_wrong_command_line_is_told_before_what_it_names_is_looked_at() {
    let place = Place::new();
    let image = small(&place);
    cowback(&["mkfs", &image]).fails(2, &["command line", "--size"]);
    cowback(&["mkfs", &place.arg("dir")]).fails(2, &["command line", "--size"]);
    cowback(&["mkfs", &image, "--size", "64M"]).fails(1, &[&image, "exists"]);
    let (source, new) = (place.arg("src"), place.arg("new.img"));
    let commands: [&[&str]; 4] =
        [&["ls", &image], &["info", &image], &["cat", &image, "file"], &["pack", &source, &new]];
    for command in commands {
        let small = cowback(&[command, &["--cache", "1K"]].concat());
        small.fails(2, &["command line", "--cache", "1K"]);
        cowback(&[command, &["--cache", "1M"]].concat()).ok();
    }
}

#[test]
fn check_takes_no_options_that_would_do_nothing() {
    let place = Place::new();
    let image = small(&place);
    cowback(&["check", &image, "--threads", "2"]).fails(2, &["--threads"]);
    cowback(&["check", &image, "--cache", "64M"]).fails(2, &["--cache"]);
}

#[test]
fn without_a_command_the_short_help_is_shown() {
    let bare = cowback::<&str>(&[]);
    assert_eq!((bare.code, bare.out.len()), (2, 0));
    assert!(bare.err.contains("Usage: cowback <COMMAND>") && bare.err.contains("  pack "));
    assert!(!bare.err.contains("Exit status"), "{}", bare.err);
    for long in [&["help"][..], &["--help"]] {
        assert!(cowback(long).ok().text().contains("Exit status: 0 done"));
    }
}

#[test]
fn only_what_writes_minds_a_bad_source_date_epoch() {
    let place = Place::new();
    let image = small(&place);
    let out = place.arg("out");
    fs::write(place.path("f"), b"x").unwrap();
    let file = place.arg("f");
    let run = |args: &[&str]| program().args(args).env("SOURCE_DATE_EPOCH", "noon").output();
    let reads: [&[&str]; 5] = [
        &["ls", "-lR", &image],
        &["cat", &image, "file"],
        &["info", &image],
        &["check", &image],
        &["unpack", &image, &out],
    ];
    for command in reads {
        let ran = run(command).unwrap();
        assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let writes: [&[&str]; 3] =
        [&["mkdir", &image, "x"], &["put", &image, &file, "x"], &["rm", &image, "file"]];
    for command in writes {
        let ran = run(command).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{command:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains("SOURCE_DATE_EPOCH"));
    }
}

#[test]
fn with_shrink_a_size_is_the_most_that_the_image_may_have() {
    let place = Place::new();
    small(&place);
    let (source, image) = (place.arg("src"), place.arg("b.img"));
    cowback(&["pack", &source, &image, "--shrink", "--size", "64M"]).ok();
    assert!(fs::metadata(&image).unwrap().len() < 64 << 20);
    cowback(&["pack", &source, &place.arg("c.img"), "--shrink", "--size", "1M"])
        .fails(1, &["no space left", "--size"]);
    let help = cowback(&["pack", "--help"]).ok().text();
    let words: Vec<&str> = help.split_whitespace().collect();
    assert!(words.join(" ").contains("with --shrink, the most that it may have"), "{help}");
}

#[test]
fn what_comes_from_standard_input_has_the_attributes_of_what_it_replaces() {
    let place = Place::new();
    let image = small(&place);
    let volume = cowback::Volume::open(&image, &cowback::Options::default()).unwrap();
    let old = cowback::Timespec { sec: 1_000_000, nsec: 1 };
    let set = cowback::SetAttributes {
        permissions: Some(0o6650),
        uid: Some(12),
        gid: Some(34),
        accessed: Some(old),
        modified: Some(old),
    };
    volume.set_attributes("file", &set).unwrap();
    volume.set_xattr("file", b"user.kept", b"value").unwrap();
    volume.set_xattr("file", b"security.capability", b"rights").unwrap();
    volume.symlink("nowhere", "link").unwrap();
    volume.close().unwrap();

    cowback_fed(&["put", &image, "-", "file", "--grow"], b"new content").ok();
    cowback_fed(&["put", &image, "-", "link", "--grow"], b"a file").ok();
    let volume = cowback::Volume::open(&image, &cowback::Options::default()).unwrap();
    let new = volume.metadata("file").unwrap();
    assert_eq!((new.permissions, new.uid, new.gid, new.size), (0o650, 12, 34, 11));
    assert_eq!(volume.list_xattrs("file").unwrap(), [b"user.kept"]);
    assert_eq!(volume.get_xattr("file", b"user.kept").unwrap(), b"value");
    assert!(new.modified.sec > 1_500_000_000 && new.accessed.sec > 1_500_000_000, "{new:?}");
    // A symlink's mode says nothing about a file.
    assert_eq!(volume.metadata("link").unwrap().permissions, 0o644);
    let help = cowback(&["put", "--help"]).ok().text();
    let words: Vec<&str> = help.split_whitespace().collect();
    let said = "takes mode, owner and extended attributes (but for set-id bits and capabilities) of the file";
    assert!(words.join(" ").contains(said), "{help}");
}

#[test]
fn a_file_that_has_no_size_is_put_with_what_it_holds() {
    let place = Place::new();
    let image = place.arg("a.img");
    cowback(&["mkfs", &image, "--size", "16M"]).ok();
    cowback(&["put", &image, "/proc/version", "version"]).ok();
    let version = fs::read_to_string("/proc/version").unwrap();
    assert_eq!(cowback(&["cat", &image, "version"]).ok().text(), version);
}

#[test]
fn a_message_that_cannot_be_written_is_no_reason_to_panic() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = program().args(["ls", "/no/such/image"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_size_in_which_no_image_can_be_made_is_refused_with_the_least_that_can() {
    let place = Place::new();
    for size in ["1", "8388607"] {
        let ran = cowback(&["mkfs", &place.arg("a.img"), "--size", size]);
        ran.fails(1, &["a.img", &format!("{size} bytes are fewer than 8 MiB")]);
        assert_eq!(place.names(), [""; 0]);
    }
    cowback(&["mkfs", &place.arg("a.img"), "--size", "8M"]).ok();
}
